"""Time a training step and the inference of every model of the project, on two images of OV-Shapes.

  python benchmarks/models.py --models region-text F-ViT

The models are those of `agreement`, which are small: a GPU's time for them is that of its launches. `ours` is a step's
forward and backward, or the inference of a model that does not train.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import arguments

from clipself_d2.command_line import exit_codes


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = arguments.argument_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="of benchmarks/agreement.py (all)")
    args = parser.parse_args(argv)

    import agreement
    import harness

    if unknown := set(args.models) - set(agreement.MODELS):
        parser.error(f"--models: unknown {', '.join(sorted(unknown))}; choose from {', '.join(agreement.MODELS)}")
    harness.prepare(args)
    models = {name: harness.measure(name, calls(name, args), args) for name in args.models or agreement.MODELS}
    harness.report("models", {"models": models}, args)


def calls(name: str, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What is timed of a model."""
    import agreement
    import harness
    import torch
    from detectron2.utils.events import EventStorage

    from clipself_d2.engine.config import build

    with tempfile.TemporaryDirectory() as folder:
        cfg = agreement.config(agreement.MODELS[name], args.device, folder)
    precision, model = harness.autocast(args), build(cfg, "model").to(args.device).train()
    # Of its own: operations cannot be counted in inference mode where a parametrization's input has gradients.
    frozen = build(cfg, "model").to(args.device).requires_grad_(False).eval()
    batches = {kind: agreement.first_batch(cfg, kind) for kind in ("train", "test") if kind in cfg.dataloader}

    def train() -> None:
        with precision, EventStorage():
            losses = model(batches["train"])
        sum(losses.values()).backward()
        model.zero_grad(set_to_none=True)

    def infer() -> None:
        with torch.inference_mode(), precision:
            frozen(batches["test"])

    if "train" not in batches:
        return {"ours": infer}
    return {"ours": train} | ({"inference": infer} if "test" in batches else {})


if __name__ == "__main__":
    sys.exit(main())
