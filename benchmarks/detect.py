"""Time F-ViT's inference against the bare forward of its tower.

  python benchmarks/detect.py
  python benchmarks/detect.py --device cuda --batch 8 model.rpn.post_nms_topk=[1000,300]

With random weights and text embeddings, on images of noise; `tower` is the dense map alone, in the same precision.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import arguments

from clipself_d2.command_line import exit_codes

if TYPE_CHECKING:
    from clipself_d2.vocabulary import Vocabulary

CONFIG = "detection/fvit_eva02_b16_ovcoco.py"


def random_vocabulary(classes: int, embed_dim: int) -> Vocabulary:
    """Classes and a background with random embeddings."""
    import torch

    from clipself_d2.vocabulary import Vocabulary

    embeddings = torch.randn(classes + 1, embed_dim)
    return Vocabulary([f"class {i}" for i in range(classes)], embeddings[:-1], background=embeddings[-1])


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = arguments.argument_parser(__doc__)
    arguments.add_recipe(parser, CONFIG)
    arguments.add_size(parser, "the input")
    parser.add_argument("--classes", type=arguments.at_least(1), default=65, metavar="K", help="(%(default)s)")
    args = parser.parse_args(argv)

    import harness
    import torch

    from clipself_d2.clip.frozen import compile_towers
    from clipself_d2.engine.config import build

    harness.prepare(args)
    cfg = harness.load_random(args, model__size=args.size)
    cfg.model.vocabulary = {"_target_": random_vocabulary, "classes": args.classes, "embed_dim": cfg.shape.embed_dim}
    model: Any = build(cfg, "model").to(args.device).eval()
    if cfg.train.compile:
        compile_towers(model)
    inputs = [{"image": harness.random_image()} for _ in range(args.batch)]
    pixels = torch.randn(args.batch, 3, model.size, model.size, device=args.device)

    def ours() -> Any:
        with torch.inference_mode(), harness.autocast(args):
            return model(inputs)

    def tower() -> Any:
        with torch.inference_mode(), harness.autocast(args):
            return model.backbone.tower.features(pixels)

    numbers = harness.measure("detect", {"tower": tower, "ours": ours}, args)
    ratio = numbers["seconds"]["ours"] / numbers["seconds"]["tower"]
    harness.report("detect", {**numbers, "ratio_to_tower": ratio}, args)


if __name__ == "__main__":
    sys.exit(main())
