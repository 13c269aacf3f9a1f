"""Measure what int8 costs a dense encoder: region accuracy of the miniature, by PyTorch and by the exported files.

  python benchmarks/int8.py

The tower that ships after CLIPSelf classifies the boxes and masks of OV-Shapes' held-out images: in PyTorch (fp32), in
onnxruntime (fp32), and in onnxruntime with int8 weights and matrix products (`clipself export --int8`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipself_d2.command_line import ArgumentParser, exit_codes


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/benchmark"), metavar="DIR", help="%(default)s")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of miniature/clipself_patches")
    args = parser.parse_args(argv)

    from tabulate import tabulate

    from clipself_d2.cli.export import check_path
    from clipself_d2.clip.export import DenseEncoder, quantize, write_encoder
    from clipself_d2.engine.config import load_config
    from clipself_d2.engine.evaluate import build_evaluation, evaluate
    from clipself_d2.engine.inference import load_trained
    from clipself_d2.miniature import CLIPSELF_WEIGHTS

    fixed = ["train.device=cpu", "train.precision=fp32", f"train.output_dir={args.output}"]
    cfg = load_config("miniature/clipself_patches", [f"clip.pretrained={CLIPSELF_WEIGHTS}", *fixed, *args.opts])
    model: Any = load_trained(cfg, None)
    results = {"PyTorch": evaluate(cfg, model, build_evaluation(cfg))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dense.onnx"
        check_path(path)
        write_encoder(DenseEncoder(model.tower), path)
        for name in ("onnxruntime", "onnxruntime, int8"):
            if name.endswith("int8"):
                quantize(path)
            _read_by(model.tower, path)
            results[name] = evaluate(cfg, model, build_evaluation(cfg))
    metrics = [(kind, top) for kind in ("boxes", "thing_masks", "stuff_masks") for top in ("top1", "top5")]
    rows = [[name, *(found[kind][top] for kind, top in metrics)] for name, found in results.items()]
    print(tabulate(rows, ["mAcc, %", *(f"{kind} {top}" for kind, top in metrics)], "simple_outline", floatfmt=".2f"))
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "int8.json").write_text(json.dumps(results))


def _read_by(tower: Any, path: Path) -> None:
    """Let an exported file give a tower's dense map."""
    from clipself_d2.clip.export import load_program
    from clipself_d2.clip.tower import TowerFeatures

    run = load_program(path)

    def features(images: Any, *_: Any, **options: Any) -> TowerFeatures:
        [dense] = run((images * tower.pixel_std + tower.pixel_mean) * 255)
        return TowerFeatures(dense, [])

    tower.features = features


if __name__ == "__main__":
    sys.exit(main())
