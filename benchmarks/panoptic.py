"""Time open-vocabulary panoptic segmentation, the masks given, against plain arithmetic and the bare tower.

  python benchmarks/panoptic.py --size 640 --masks 100

With random weights, on images of noise (`--batch` at once) and the masks of random discs. The reference works in fp32
with attention's matrix on the padded square, pools masks one by one, and merges them as Mask2Former does: all resized
at once, then a loop. `tower` is the dense map alone, of what ours reads and in its precision. Before the timing,
embeddings and segments must agree.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import arguments

from clipself_d2.command_line import exit_codes


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = arguments.argument_parser(__doc__)
    arguments.add_tower(parser)
    add = parser.add_argument
    add("--size", type=int, default=640, metavar="PIXELS", help="side of the square input (%(default)s)")
    add("--masks", type=arguments.at_least(1), default=100, metavar="Q", help="per image (%(default)s)")
    add("--classes", type=arguments.at_least(1), default=133, metavar="K", help="of the vocabulary (%(default)s)")
    args = parser.parse_args(argv)

    import harness
    import torch
    from panoptic_reference import Reference, agree, draw_predictions

    from clipself_d2.clip import build_image_tower
    from clipself_d2.panoptic import OpenVocabularyPanoptic
    from clipself_d2.regions import dense_features, letterbox_images
    from clipself_d2.vocabulary import Vocabulary

    harness.prepare(args)
    tower = build_image_tower(args.model, None).to(args.device).eval()
    vocabulary = Vocabulary([f"class {i}" for i in range(args.classes)], torch.randn(args.classes, tower.embed_dim))
    predictions = draw_predictions(args.masks, args.classes).to(args.device)
    model = OpenVocabularyPanoptic(
        lambda inputs, vocabulary: [predictions] * len(inputs),
        tower,
        vocabulary.to(args.device),
        [i < args.classes // 2 for i in range(args.classes)],
        args.size,
        tasks=("panoptic_seg",),
    ).to(args.device)
    image, precision = harness.random_image(), harness.autocast(args)
    plain = Reference(model, predictions)
    agreement = agree(model, plain, image, precision)
    images = [image] * args.batch
    letterboxed = letterbox_images(tower, images, args.size)
    if args.compile:
        tower.compile()

    def ours() -> Any:
        with torch.inference_mode(), precision:
            return model([{"image": each} for each in images])

    def tower_alone() -> Any:
        with torch.inference_mode(), precision:
            return dense_features(tower, letterboxed)

    calls = {"reference": lambda: [plain(each) for each in images], "ours": ours, "tower": tower_alone}
    numbers = harness.measure("panoptic", calls, args)
    seconds = numbers["seconds"]
    ratio = harness.ratios({name: seconds[name] for name in ("reference", "ours")}, "reference")
    to_tower = seconds["ours"] / seconds["tower"]
    harness.report("panoptic", {**numbers, "ratio": ratio, "ratio_to_tower": to_tower, "agreement": agreement}, args)


if __name__ == "__main__":
    sys.exit(main())
