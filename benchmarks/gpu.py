"""Check every model on a GPU against the CPU, then time and profile what the project does on it, in a few minutes.

  python benchmarks/gpu.py --minutes 8
  python benchmarks/gpu.py --device cpu --rows 9        (to try the script: one row, without a GPU)

From a plain checkout, with random weights. First every model, and a tower of each family, must compute the same losses,
gradients and predictions in fp32 on both devices, and its evaluator must run. Then each row is one of the other
benchmarks, in bf16. Writes gpu-DEVICE.json and gpu-DEVICE.md to `--output` after each row. Rows that do not fit into
the time are named as left out.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import arguments

from clipself_d2.command_line import exit_codes
from clipself_d2.errors import RunError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TOLERANCES = {"loss": 1e-3, "gradient": 1e-4, "numbers": 1e-2, "labels": 1e-2}
"""Of `agreement.compare`, in fp32 without TF32: the devices add up in another order."""


class Row(NamedTuple):
    """A row of the table: a benchmark and its arguments."""

    title: str
    script: str
    arguments: tuple[str, ...] = ()


_B16 = ("--size", "1024", "--batch", "2")
_L14 = ("--config-file", str(CONFIGS / "distillation/clipself_eva02_l14_336_coco_patches.py"))
_MINIATURE = ("--config-file", str(CONFIGS / "miniature/clipself_patches.py"))
_FEW = "model.rpn.post_nms_topk=[1000,300]"
ROWS = (
    Row("CLIPSelf step, EVA-02 B/16, 1024, batch 2", "distill", _B16),
    Row("CLIPSelf step, EVA-02 B/16, 1024, batch 2, compiled", "distill", (*_B16, "train.compile=true")),
    Row("CLIPSelf step, EVA-02 L/14-336, 896, batch 2", "distill", (*_L14, "--size", "896", "--batch", "2")),
    Row("F-ViT, B/16, 640, 1,000 proposals", "detect", ("--size", "640")),
    Row("F-ViT, B/16, 640, 1,000 proposals, batch 8", "detect", ("--size", "640", "--batch", "8")),
    Row("F-ViT, B/16, 640, 300 proposals", "detect", ("--size", "640", _FEW)),
    Row("F-ViT, B/16, 640, 300 proposals, batch 8", "detect", ("--size", "640", "--batch", "8", _FEW)),
    Row("region classification, B/16, 640", "evaluate"),
    Row("region classification, B/16, 640, batch 8", "evaluate", ("--batch", "8")),
    Row("panoptic segmentation, B/16, 640, 100 masks", "panoptic"),
    Row("panoptic segmentation, B/16, 640, 100 masks, batch 8", "panoptic", ("--batch", "8")),
    Row("CLIPSelf step, miniature, batch 8", "distill", (*_MINIATURE, "--batch", "8")),
    Row("every model, miniature, batch 2", "models"),
    Row("teacher and student without reading, B/16, 1024, batch 2", "streams", _B16),
    Row("F-ViT, B/16, 640, 1,000 proposals, compiled", "detect", ("--size", "640", "train.compile=true")),
    Row("region classification, B/16, 640, compiled", "evaluate", ("--compile",)),
    Row("panoptic segmentation, B/16, 640, 100 masks, compiled", "panoptic", ("--compile",)),
)


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = arguments.argument_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=8, metavar="M", help="no row starts after them (%(default)s)")
    rows = {str(number): row.title for number, row in enumerate(ROWS)}
    text = "; ".join(f"{number} {title}" for number, title in rows.items())
    parser.add_argument("--rows", nargs="+", choices=list(rows), default=list(rows), metavar="N", help=text)
    parser.set_defaults(rounds=2)
    args = parser.parse_args(argv)

    import harness

    start = time.perf_counter()
    harness.prepare(args)
    agreement = check_models(args.device)
    peak = harness.peak_flops(args)
    print(f"largest products: {peak / 1e12:.3g} TFLOP/s")
    rows_to_run = [ROWS[int(number)] for number in args.rows]
    measured: dict[str, Any] = {row.title: "left out: no time" for row in rows_to_run}
    for row in rows_to_run:
        if time.perf_counter() - start < 60 * args.minutes:
            measured[row.title] = run_row(row, args)
        # After each row: whoever lends a GPU may take it back.
        harness.report("gpu", {"peak_flops_per_second": peak, "agreement": agreement, "rows": measured}, args)
        (args.output / f"gpu-{args.device}.md").write_text(markdown(measured, peak))
    print(markdown(measured, peak))
    if wrong := [
        f"{name}: {key} {value:.2g}"
        for name, each in agreement.items()
        for key, value in each.items()
        if not value <= TOLERANCES[key]
    ]:
        raise RunError(f"{args.device} and CPU do not agree: {', '.join(wrong)}")


def check_models(device: str) -> dict[str, dict[str, float]]:
    """Compare each model's outputs on a device with those on the CPU, in fp32; see `agreement.compare`."""
    import agreement
    import torch

    figures = {}
    for name in (*agreement.MODELS, *agreement.TOWERS):
        model = agreement.MODELS.get(name)
        with torch.backends.cudnn.flags(allow_tf32=False):
            cpu, other = (
                agreement.run(model, each) if model else agreement.run_tower(name, each) for each in ("cpu", device)
            )
        figures[name] = agreement.compare(cpu, other, draws=model is not None and model.draws)
        print(f"{name}:", ", ".join(f"{key} {value:.2g}" for key, value in figures[name].items()) or "runs")
    return figures


def run_row(row: Row, args: argparse.Namespace) -> dict[str, Any] | str:
    """Run a benchmark -> what it reports, or why there is nothing."""
    import torch

    folder = args.output / "gpu"
    common = ["--device", args.device, "--precision", args.precision, "--rounds", str(args.rounds), "--profile"]
    try:
        code = importlib.import_module(row.script).main([*common, "--output", str(folder), *row.arguments])
    except torch.OutOfMemoryError:
        return "left out: not enough memory"
    except Exception:  # whatever a row meets on a new GPU, the others have their minutes
        traceback.print_exc()
        return "failed, see above"
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    if code:
        return "failed, see above"
    return json.loads((folder / f"{row.script}-{args.device}.json").read_text())


def markdown(measured: Mapping[str, dict[str, Any] | str], peak: float) -> str:
    """The table of all rows, then the kernels that take most of each."""
    head = ["what", "ms", "others, ms", "reference / ours", "ours / tower", "student, % of the products' speed"]
    head += ["GiB", "waits"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    kernels = []
    for title, numbers in separate(measured):
        if isinstance(numbers, str):
            lines.append(f"| {title} | {numbers} |" + " |" * (len(head) - 2))
            continue
        memory = numbers["peak_memory_bytes"]["ours"]
        speed = numbers.get("student_flops_per_second")
        milliseconds = {name: f"{1000 * seconds:.1f}" for name, seconds in numbers["seconds"].items()}
        cells = [
            milliseconds.pop("ours"),
            ", ".join(f"{name} {value}" for name, value in milliseconds.items()),
            f"{numbers['ratio']['ours']:.1f}" if "ratio" in numbers else "",
            f"{numbers['ratio_to_tower']:.2f}" if "ratio_to_tower" in numbers else "",
            f"{100 * speed / peak:.0f}" if speed else "",
            f"{memory / 2**30:.1f}" if memory else "",
            str(numbers["waits"].get("ours", "")),
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
        kernels += [f"\n{title}:\n", *(f"- {100 * part:.0f} % {name}" for name, part in numbers["kernels"].items())]
    return "\n".join([*lines, *kernels]) + "\n"


def separate(measured: Mapping[str, dict[str, Any] | str]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """The rows, with one for each model of `models`."""
    for title, numbers in measured.items():
        if isinstance(numbers, dict) and "models" in numbers:
            yield from ((f"{name}, miniature", each) for name, each in numbers["models"].items())
        else:
            yield title, numbers


if __name__ == "__main__":
    sys.exit(main())
