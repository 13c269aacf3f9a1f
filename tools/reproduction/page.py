"""All tables and figures on one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from clipself_d2.visualization import report
from clipself_d2.visualization.report import Cell, Mark, Section, Tone
from reproduction.outcome import Outcome, cells, remarks
from reproduction.tables import Table

_LEAD = (
    "The tables and figures of CLIPSelf (arXiv 2310.01403, ICLR 2024), ours beside the paper's. Numbers are percent."
)


def write_page(
    path: Path, tables: Sequence[Table], outcomes: Mapping[str, Outcome], errors: Mapping[str, Exception]
) -> None:
    """Write the HTML page.

    Args:
        path: of the file; the figures of `../TABLE-SCALE` are put into it.
        tables: all that are wanted, of one scale.
        outcomes: of those that are done, by the table's name.
        errors: what stopped others.
    """
    overview: list[list[Cell]] = []
    sections = []
    for table in tables:
        blocks: list[report.Block] = [report.Text(table.title)]
        if table.name in outcomes:
            mark = verdict(outcomes[table.name])
            blocks += _blocks(outcomes[table.name], path.parents[1] / f"{table.name}-{table.scale}")
        elif table.name in errors:
            mark = Mark("✗ failed", "bad")
            blocks.append(report.Text(f"Failed: {errors[table.name]}"))
        else:
            mark = Mark("not there yet", "quiet")
        blocks.append(report.Code(f"python tools/reproduce.py {table.name} --scale {table.scale}"))
        overview.append([table.label, table.title, mark])
        sections.append(Section(table.label, blocks))
    caption = "The order is that of rows of one data set, in every column in which the paper has two numbers or more."
    grid = report.Table(["table", "content", "the paper's order"], overview, caption)
    title = f"Reproduction, at the scale of the {tables[0].scale}"
    report.write_report(path, title, [Section("Overview", [grid]), *sections], _LEAD)


def verdict(outcome: Outcome) -> Mark:
    """Whether the rows of a table are ordered as the paper's."""
    orders = outcome["same_order"]
    if not orders:
        return Mark("nothing to compare", "quiet")
    if all(orders.values()):
        return Mark("✓ holds", "good")
    return Mark(f"✗ not in {list(orders.values()).count(False)} of {len(orders)} columns", "bad")


def _blocks(outcome: Outcome, folder: Path) -> list[report.Block]:
    """The table, with the paper's numbers in gray, and its figures."""
    columns = cells(outcome)
    tones: list[Tone] = ["quiet" if heading.endswith(", paper") else "plain" for heading in columns]
    rows = [[Mark(*cell) for cell in zip(row, tones, strict=True)] for row in zip(*columns.values(), strict=True)]
    blocks: list[report.Block] = [report.Table(list(columns), rows, remarks(outcome))]
    for name in outcome.get("figures", ()):
        if name.endswith(".png"):
            with Image.open(folder / name) as image:
                blocks.append(report.Figure(image.convert("RGB"), outcome["title"], width=900))
    return blocks
