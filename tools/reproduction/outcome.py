"""A table's numbers beside the paper's, as data and as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from tabulate import tabulate

from reproduction.figures import FIGURES
from reproduction.plan import Planner
from reproduction.session import write_json
from reproduction.tables import Row, Table

Outcome = dict[str, Any]
VERDICTS = ("table", "the paper's order holds in", "does not hold in")


def gather(table: Table, planner: Planner) -> Outcome:
    """The numbers of a table whose runs are finished.

    Returns:
        `{"table", "scale", "title", "varies", "columns", "note", "rows", "same_order"}`. A row is `{"label",
        "paper_label", "above", "ours": {column: percent or None}, "paper": {..}, "data", "seconds", "folder",
        "command"}`.
        `same_order` says, for each column that can be compared, whether our rows are ordered as the paper's. A row
        with a key has its numbers also under that.
    """
    rows = [_gather_row(table, row, planner) for row in table.rows]
    orders = {column: same_order(rows, column) for column in table.columns}
    return {
        **{row.key: found["ours"] for row, found in zip(table.rows, rows, strict=True) if row.key},
        "table": table.name,
        "scale": table.scale,
        "title": table.heading,
        "varies": table.varies,
        "columns": list(table.columns),
        "note": table.note,
        "rows": rows,
        "same_order": {column: same for column, same in orders.items() if same is not None},
    }


def write_table(table: Table, planner: Planner) -> Outcome:
    """Write `TABLE-SCALE/results.json` and the table's figures; returns what `gather` gives, with "figures"."""
    outcome, folder = gather(table, planner), table_folder(table, planner)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", outcome)  # numbers are kept, even if a figure fails
    if table.figure:
        outcome["figures"] = [path.name for path in FIGURES[table.figure](table, outcome["rows"], planner, folder)]
        write_json(folder / "results.json", outcome)
    return outcome


def table_folder(table: Table, planner: Planner) -> Path:
    """Where the table's numbers and figures are written."""
    return planner.output / f"{table.name}-{table.scale}"


def _gather_row(table: Table, row: Row, planner: Planner) -> Outcome:
    job = planner.job(row.run)
    finished = job.record
    assert finished, f"{job.folder}: is not finished"
    ours = [_number(finished["results"], metric) for metric in table.metrics(row)]
    return {
        "label": row.label,
        "paper_label": row.paper_label,
        "above": row.above,
        "ours": dict(zip(table.columns, ours, strict=True)),
        "paper": dict(zip(table.columns, row.paper or (None,) * len(table.columns), strict=True)),
        "data": row.run.dataset or job.config.dataloader.get("test", {}).get("dataset", ""),
        "seconds": finished["seconds"],
        "folder": str(job.folder),
        "command": finished["command"],
    }


def _number(results: Any, metric: str) -> float | None:
    for key in metric.split("."):
        results = results.get(key) if isinstance(results, dict) else None
    return None if results is None or math.isnan(results) else float(results)


def same_order(rows: Sequence[Outcome], column: str) -> bool | None:
    """Whether our rows are ordered as the paper's; rows of different data sets are not compared.

    A row of which the paper has a number must also exceed the one that its "above" names.

    Returns:
        None where there is nothing to compare: the paper has no two different numbers, and no row is above another.
    """
    ours = {row["label"]: row["ours"][column] for row in rows}
    known = [row for row in rows if None not in (row["paper"][column], row["ours"][column])]
    signs = [
        (a["paper"][column] - b["paper"][column]) * (a["ours"][column] - b["ours"][column])
        for a, b in combinations(known, 2)
        if a["data"] == b["data"] and a["paper"][column] != b["paper"][column]
    ]
    signs += [ours[row["label"]] - ours[row["above"]] for row in known if ours.get(row["above"]) is not None]
    return all(sign > 0 for sign in signs) if signs else None


def cells(outcome: Outcome) -> dict[str, list[str]]:
    """The shown columns by their headings; columns of the paper that would be empty are left out."""
    rows = outcome["rows"]
    columns = {outcome["varies"]: [row["label"] for row in rows]}
    if any(row["paper_label"] for row in rows):
        columns["paper's row"] = [row["paper_label"] for row in rows]
    for column in outcome["columns"]:
        for source, heading in (("ours", column), ("paper", f"{column}, paper")):
            numbers = [row[source][column] for row in rows]
            if source == "ours" or any(number is not None for number in numbers):
                columns[heading] = ["" if number is None else f"{number:.1f}" for number in numbers]
    return columns


def remarks(outcome: Outcome) -> str:
    """The note, and whether the rows are ordered as the paper's."""
    held, other = verdict(outcome)
    order = f"The rows' order is not the paper's in {other}." if other else "The rows' order is the paper's."
    return f"{outcome['note']} {order if held or other else ''}".strip()


def verdict(outcome: Outcome) -> tuple[str, str]:
    """The columns in which our rows are ordered as the paper's, and those in which they are not."""
    held, other = (
        ", ".join(column for column, same in outcome["same_order"].items() if same is wanted)
        for wanted in (True, False)
    )
    return held, other


def orderings(outcomes: Iterable[Outcome]) -> str:
    """In how many of all columns that can be compared our rows are ordered as the paper's."""
    orders = [same for outcome in outcomes for same in outcome["same_order"].values()]
    return f"{sum(orders)} of {len(orders)} orderings hold"


def verdicts(outcomes: Mapping[str, Outcome], markdown: bool) -> str:
    """The verdict on each column of several tables, for a terminal or in Markdown.

    Args:
        outcomes: by the table's label.
        markdown: see `as_text`.
    """
    rows = [(label, *verdict(outcome)) for label, outcome in outcomes.items() if outcome["same_order"]]
    style, widths = ("pipe", None) if markdown else ("simple_outline", [None, 50, 50])
    grid = tabulate(rows, VERDICTS, style, maxcolwidths=widths, disable_numparse=True)
    overall = orderings(outcomes.values())
    return f"{grid}\n\n{f'**{overall}**' if markdown else overall}\n"


def as_text(outcome: Outcome, markdown: bool) -> str:
    """The table for a terminal or in Markdown."""
    columns = cells(outcome)
    words = {outcome["varies"], "paper's row"}
    align = ["left" if heading in words else "right" for heading in columns]
    if markdown:
        headers = list(columns)
    else:  # the words of a number's heading are stacked, to leave the width to the labels
        headers = [heading if heading in words else heading.replace(" ", "\n") for heading in columns]
    style = "pipe" if markdown else "simple_outline"
    grid = tabulate(columns, headers, style, colalign=align, disable_numparse=True)
    title = f"**{outcome['title']}**\n" if markdown else outcome["title"]
    return f"{title}\n{grid}\n\n{remarks(outcome)}\n"
