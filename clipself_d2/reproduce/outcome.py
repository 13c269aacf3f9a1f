"""The numbers of a table, out of the runs that give them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipself_d2.reproduce.engine import recorded
from clipself_d2.reproduce.plan import Job, Planner
from clipself_d2.reproduce.table import Row, Table

Outcome = dict[str, Any]


def gather(table: Table, planner: Planner) -> Outcome:
    """The numbers of a table whose runs are finished.

    Returns:
        `{"table", "scale", "title", "varies", "columns", "note", "rows", "same_order"}`. A row is `{"label",
        "paper_label", "ours": {column: percent | None}, "paper": {..}, "seconds", "folder", "command"}`; `same_order`
        says, for each column with two of the paper's numbers or more, whether our rows are ordered as the paper's. The
        numbers of a row with a key are given under that, too.
    """
    rows = [_row(table, row, planner.job(row.run)) for row in table.rows]
    orders = {column: _same_order(rows, column) for column in table.columns}
    keyed = {row.key: ours["ours"] for row, ours in zip(table.rows, rows, strict=True) if row.key}
    return {
        **keyed,
        "table": table.name,
        "scale": table.scale,
        "title": table.heading,
        "varies": table.varies,
        "columns": list(table.columns),
        "note": table.note,
        "rows": rows,
        "same_order": {column: same for column, same in orders.items() if same is not None},
    }


def table_folder(table: Table, planner: Planner) -> Path:
    """Where the table's numbers and pictures are written."""
    return planner.output / f"{table.name}-{table.scale}"


def _row(table: Table, row: Row, job: Job) -> Outcome:
    finished = recorded(job)
    ours = [_number(finished["results"], metric) for metric in row.metrics]
    paper = row.paper or (None,) * len(table.columns)
    return {
        "label": row.label,
        "paper_label": row.paper_label,
        "ours": dict(zip(table.columns, ours, strict=True)),
        "paper": dict(zip(table.columns, paper, strict=True)),
        "seconds": finished["seconds"],
        "folder": str(job.folder),
        "command": finished["command"],
    }


def _number(results: Any, metric: str) -> float | None:
    for key in metric.split("."):
        results = results.get(key) if isinstance(results, dict) else None
    return None if results is None or math.isnan(results) else float(results)


def _same_order(rows: Sequence[Outcome], column: str) -> bool | None:
    pairs = [(row["paper"][column], row["ours"][column]) for row in rows]
    known = [pair for pair in pairs if None not in pair]
    if len(known) < 2:
        return None
    return all((a[0] < b[0]) == (a[1] < b[1]) for a in known for b in known if a[0] != b[0])
