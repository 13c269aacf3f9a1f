"""Time region classification (boxes, thing masks, stuff masks) against the released recipe's arithmetic.

  python benchmarks/evaluate.py --size 640 --batch 1

With random weights, on images of noise with as many segments as COCO's. Ours is one forward without padding, RoIAlign,
mask pooling and one product with the texts. The reference works image by image in fp32: attention's matrix, the padded
square twice through the tower (for boxes and for masks), masks pooled one by one, hits counted region by region. Before
the timing, embeddings and accuracies must agree.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import arguments

from clipself_d2.command_line import exit_codes

_DATASET = "benchmark_regions"


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = arguments.argument_parser(__doc__)
    arguments.add_tower(parser)
    add = parser.add_argument
    add("--size", type=int, default=640, metavar="PIXELS", help="side of the square input (%(default)s)")
    add("--classes", type=arguments.at_least(6), default=133, metavar="K", help="things and stuff (%(default)s)")
    args = parser.parse_args(argv)

    import harness
    import torch
    import torch.nn.functional as F
    from detectron2.data import MetadataCatalog
    from evaluate_reference import Reference, agree, draw_samples

    from clipself_d2.clip import build_image_tower
    from clipself_d2.evaluation import RegionClassificationEvaluator
    from clipself_d2.regions import RegionEmbedder

    harness.prepare(args)
    tower = build_image_tower(args.model, None).to(args.device).eval()
    tower.check_size(args.size, "--size")
    text = F.normalize(torch.randn(args.classes, tower.embed_dim), dim=-1).to(args.device)
    names, isthing = [f"class {i}" for i in range(args.classes)], [i < args.classes // 2 for i in range(args.classes)]
    MetadataCatalog.pop(_DATASET, None)
    MetadataCatalog.get(_DATASET).set(region_classes=names, region_isthing=isthing)
    embedder = RegionEmbedder(tower, args.size, mask_resize="bicubic")
    evaluator = RegionClassificationEvaluator(_DATASET, text)
    plain, precision, samples = (
        Reference(tower, args.size, text),
        harness.autocast(args),
        draw_samples(args.batch, args.classes),
    )
    agreement = agree(embedder, evaluator, plain, samples, precision)
    if args.compile:
        tower.compile()

    def ours() -> None:
        with torch.inference_mode():
            with precision:
                outputs = embedder(samples)
            evaluator.process(samples, outputs)

    calls = {"reference": lambda: plain(samples), "ours": ours}
    numbers = harness.measure("evaluate", calls, args)
    ratio = harness.ratios(numbers["seconds"], "reference")
    harness.report("evaluate", {**numbers, "ratio": ratio, "agreement": agreement}, args)


if __name__ == "__main__":
    sys.exit(main())
