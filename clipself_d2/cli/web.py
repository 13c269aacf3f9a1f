"""Open a page in the browser: an image and words of yours, and what a CLIP makes of them.

Its tabs: a heat map per word, boxes, segments, and the K-Means clusters of the dense map; heat maps, names of boxes,
segments and clusters also before CLIPSelf. The page is on this machine alone, unless --host says otherwise, and needs
no network. The CLIP is the small one that ships with a detector and two segmenters, or --clip, whose boxes need a
detector of --config-file.

Examples:
  clipself web
  clipself web --clip EVA02-B-16 --pretrained output/tower.safetensors --compare merged2b_s8b_b131k --port 8080
  clipself web --clip EVA02-B-16 --pretrained output/tower.safetensors \\
      --config-file detection/fvit_eva02_b16_ovcoco --weights output/fvit/checkpoint_0045000.pth
"""

import argparse
import os
import socket
from collections.abc import Sequence

from clipself_d2.cli.arguments import add_clip, add_trained, check_clip, clip_weights, port
from clipself_d2.cli.overrides import clip_overrides
from clipself_d2.cli.predict import BY_TEXT, DETECTOR, PANOPTIC, SEMANTIC
from clipself_d2.cli.segment import SHIPPED
from clipself_d2.command_line import ArgumentParser, announce, exit_codes
from clipself_d2.errors import InputError, require

SCENE = 12  # of the held-out ones
WORDS = "red arrow, yellow flower, blue diamond, white cross, black arrow, red triangle, pond"
REAL_WORDS = "cat, red car, street, sky"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = ArgumentParser("clipself web", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="IP", help="0.0.0.0 lets other machines in (%(default)s)")
    add("--port", type=port, default=7860, metavar="N", help="0 takes any that is free (%(default)s)")
    add_clip(parser)
    add("--compare", type=clip_weights, metavar="WEIGHTS", help="weights of --clip before CLIPSelf, to draw beside")
    add("--size", type=int, metavar="PX", help="side that images are resized to (default: twice the CLIP's own)")
    add_trained(parser, "a detector")
    args = parser.parse_args(argv)
    check_clip(args)
    if args.compare and not args.clip:
        raise InputError("--compare: is for --clip; the small CLIP that ships is always compared")
    if args.weights and not args.config_file:
        raise InputError("--weights: name the detector's config, too (--config-file)")
    return args


def listen(host: str, port: int) -> socket.socket:
    """Take a port, 0 for any that is free.

    Raises:
        InputError: it is in use, or is not this machine's to give.
    """
    try:
        return socket.create_server((host, port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise InputError(f"--host {host} --port {port}: {reason}; choose another port") from None


@exit_codes("the same command opens the page again")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    require("gradio", "web", "clipself web")
    with listen(args.host, args.port) as listener:
        announce("loading the models of the page")
        open_page(args, listener)


def open_page(args: argparse.Namespace, listener: socket.socket) -> None:
    """Load the models, and serve the page until the process is told to end."""
    from PIL import Image

    from clipself_d2 import miniature
    from clipself_d2.clip.build import image_tower_shape
    from clipself_d2.engine.config import load_config
    from clipself_d2.miniature.dataset import scene_of
    from clipself_d2.miniature.render import render
    from clipself_d2.visualization.predictor import Predictor
    from clipself_d2.visualization.web import Models, read_words, serve

    name, pretrained, before = args.clip or miniature.MODEL, args.pretrained, args.compare
    config, example, words, about = BY_TEXT, None, REAL_WORDS, f"The CLIP is {name}."
    if not args.clip:
        config, pretrained, before = SHIPPED[0], miniature.CLIPSELF_WEIGHTS, miniature.WEIGHTS
        example, words = Image.fromarray(render(scene_of("val", SCENE), 128)[0]), WORDS
        about = "The CLIP is the small one that ships. It knows colored shapes on simple grounds, and nothing else."
    size = f"model.size={args.size or 2 * image_tower_shape(name).native_size}"

    def by_text(weights: str) -> Predictor:
        return Predictor(load_config(config, [*clip_overrides(args.clip, weights), size]), read_words(words))

    trained = {} if args.clip else {"Boxes": DETECTOR, "Panoptic": PANOPTIC, "CAT-Seg": SEMANTIC}
    if args.config_file:
        trained["Boxes"] = args.config_file
    models = Models(
        by_text(pretrained),
        by_text(before) if before else None,
        {
            title: Predictor(
                load_config(config), read_words(words), weights=args.weights if config == args.config_file else ""
            )
            for title, config in trained.items()
        },
    )
    serve(models, about, example, words, listener)
