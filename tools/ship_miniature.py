"""Write the weights that ship with the miniature from finished runs, in half precision.

TOWER is what CLIPSelf made of the shipped CLIP; the rest is trained on it. The shipped tower and detector are those of
table 3a's last row, whose runs lie in output/reproduce/runs:

  python tools/reproduce.py 3a
  python tools/train_net.py --config-file configs/miniature/panoptic_masks.py model.backbone.tower.pretrained=TOWER
  python tools/train_net.py --config-file configs/miniature/cat_seg.py clip.pretrained=TOWER
  python tools/ship_miniature.py --tower TOWER --detector RUN/checkpoint_0000200.pth \\
      --masks output/panoptic_masks/checkpoint_0000200.pth --cat-seg output/cat_seg/checkpoint_0000300.pth
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from clipself_d2.command_line import ArgumentParser, exit_codes


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = partial(parser.add_argument, type=Path, required=True)
    add("--tower", help="tower.safetensors of a distillation")
    add("--detector", help="checkpoint_*.pth of an F-ViT on that tower")
    add("--masks", help="checkpoint_*.pth of a mask generator on that tower")
    add("--cat-seg", help="checkpoint_*.pth of a CAT-Seg on that tower")
    args = parser.parse_args(argv)

    import torch

    from clipself_d2.clip.checkpoint import read_checkpoint, save_checkpoint, write_atomically
    from clipself_d2.engine.checkpoint import read
    from clipself_d2.engine.config import build, load_config
    from clipself_d2.miniature import CLIPSELF_WEIGHTS, MODEL

    tower = {name: value.half() for name, value in read_checkpoint(args.tower).items()}
    card = json.loads(args.tower.with_suffix(".json").read_text())
    save_checkpoint(tower, CLIPSELF_WEIGHTS, {**card, "model": MODEL, "pretrained": Path(card["pretrained"]).name})
    print(f"written to {CLIPSELF_WEIGHTS}")
    for config, checkpoint, prefix in (
        ("miniature/detector", args.detector, ""),
        ("miniature/panoptic_segmenter", args.masks, "generator."),
        ("miniature/semantic_segmenter", args.cat_seg, ""),
    ):
        cfg = load_config(config, ["train.device=cpu"])
        own = build(cfg, "model").state_dict()
        # Fingerprints are those of the rounded tower; all else is the run's.
        state = {
            name: own[name] if "fingerprint" in name else value.half() if value.is_floating_point() else value
            for name, value in ((prefix + name, value) for name, value in read(checkpoint)["model"].items())
        }
        path = Path(cfg.train.init_checkpoint)
        write_atomically(path, partial(torch.save, {"model": state, "iteration": 0}))
        print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(main())
