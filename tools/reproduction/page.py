"""All tables and figures on one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from clipself_d2.visualization import report
from clipself_d2.visualization.report import Cell, Mark, Section, Tone
from reproduction.outcome import VERDICTS, Outcome, cells, orderings, remarks, verdict
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
            held, other = verdict(outcomes[table.name])
            marks = (
                [Mark(held, "good"), Mark(other, "bad")] if held or other else [Mark("nothing to compare", "quiet"), ""]
            )
            blocks += _blocks(outcomes[table.name], path.parents[1] / f"{table.name}-{table.scale}")
        elif table.name in errors:
            marks = [Mark("✗ failed", "bad"), ""]
            blocks.append(report.Text(f"Failed: {errors[table.name]}"))
        else:
            marks = [Mark("not there yet", "quiet"), ""]
        blocks.append(report.Code(f"python tools/reproduce.py {table.name} --scale {table.scale}"))
        overview.append([table.label, table.title, *marks])
        sections.append(Section(table.label, blocks))
    caption = "The order is that of rows of one data set, in every column in which the paper has two numbers or more."
    grid = report.Table([VERDICTS[0], "content", *VERDICTS[1:]], overview, caption)
    overall = report.Text(f"{orderings(outcomes.values())}.")
    title = f"Reproduction, at the scale of the {tables[0].scale}"
    report.write_report(path, title, [Section("Overview", [overall, grid]), *sections], _LEAD)


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
