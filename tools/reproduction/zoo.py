"""The page of all recipes, docs/model_zoo.md: python -m reproduction.zoo > ../docs/model_zoo.md, from tools/."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from clipself_d2.engine.config import load_config
from reproduction import catalog

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = {
    "distillation": "Towers",
    "detection": "Detectors",
    "semantic": "Semantic segmenters",
    "panoptic": "Panoptic segmenters",
    "miniature": "The miniature",
}
TABLES = ("1c", "A2", "3a", "3b", "4", "5", "6", "7", "A4")
"""The tables that say what a recipe reaches; ablations and repeated rows are left to `tools/reproduce.py`."""
MEASURED = {
    "miniature/clip.py": "top-1 of crops 94.4, of boxes 3.0",
    "miniature/clipself_patches.py": "top-1: boxes 75.5, things 75.1, stuff 99.2; on proposals 85.0, 83.8, 97.5",
    "miniature/detector.py": "AP50: novel 41.9, base 98.0, all 78.1",
    "miniature/panoptic_segmenter.py": "PQ: novel 32.3, base 67.4, all 56.0; mIoU 61.8",
    "miniature/semantic_segmenter.py": "mIoU: novel 41.9, base 58.6, all 53.2",
}
"""What was measured with the weights, by the recipe's path below configs/."""
WEIGHTS = {
    **dict.fromkeys(MEASURED, "in the package"),
    "miniature/clipself_patches.py": "on proposals: in the package",
}
"""Where they are."""

HEAD = """# Model zoo

Every recipe of `configs/`, with its command, the paper's numbers (percent; all rows and columns:
`python tools/reproduce.py`), what was measured here, and weights. Nothing has been trained at the paper's scale yet.
[The miniature](miniature.md) has more of its numbers. `tools/reproduction/zoo.py` writes this page.
"""


def page() -> str:
    """The page, in Markdown."""
    parts = [HEAD]
    for family, title in FAMILIES.items():
        lines = [f"## {title}", "", "| recipe | command | paper | measured | weights |", "|---|---|---|---|---|"]
        parts.append("\n".join([*lines, *(_row(path) for path in sorted((ROOT / "configs" / family).glob("*.py")))]))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _row(path: Path) -> str:
    name = f"{path.parent.name}/{path.name}"
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    trains = load_config(path).dataloader.get("train")
    command = f"`clipself {'train' if trains else 'eval'} --config-file {name.removesuffix('.py')}`"
    title = docstring.splitlines()[0].rstrip(".").replace("|", "/")
    paper = "<br>".join(_paper(name)) or "-"
    return f"| {title} | {command} | {paper} | {MEASURED.get(name, '-')} | {WEIGHTS.get(name, '-')} |"


def _paper(config: str) -> Iterator[str]:
    """The paper's rows of a recipe."""
    for name in TABLES:
        table = catalog.find(name, "paper")
        for row in table.rows:
            known = [(h, n) for h, n in zip(table.columns, row.paper, strict=False) if n and "top-5" not in h]
            other_size = any("student_size" in override for override in row.run.overrides)
            if row.run.config == config and known and not other_size:
                numbers = ", ".join(f"{heading} {number}" for heading, number in known)
                yield f"{table.label}, {row.label}: {numbers}"


if __name__ == "__main__":
    print(page(), end="")
