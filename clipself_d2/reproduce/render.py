"""An outcome as a table: for the terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from clipself_d2.reproduce.outcome import Outcome


def rich_table(outcome: Outcome) -> Group:
    """Title, table with our numbers beside the paper's, and note, for a rich console."""
    header, *rows = cells(outcome)
    text = len(labels(outcome["varies"], outcome["rows"])[0])
    table = RichTable()
    for number, name in enumerate(header):
        # Headings of numbers are stacked, a word a line, so that the labels have the room.
        heading = [name] if number < text else name.split()
        widest = max(map(len, [*heading, *(row[number] for row in rows)]))
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(Text(name), justify=justify, style="dim" if "paper" in name else "", max_width=widest)
    for row in rows:
        table.add_row(*map(Text, row))  # brackets are no markup
    return Group(Text(outcome["title"], style="bold"), table, Text(remarks(outcome)))


def markdown(outcome: Outcome) -> str:
    """The same table in Markdown."""
    header, *rows = cells(outcome)
    rule = ["---", *("---:" for _ in header[1:])]
    lines = [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
    return "\n".join([f"**{outcome['title']}**", "", *lines, "", remarks(outcome)]).rstrip() + "\n"


def shown_columns(columns: Sequence[str], rows: Sequence[Outcome]) -> list[tuple[str, tuple[str, ...]]]:
    """Each column with its sources: "ours", and "paper" where the paper has a number in it."""
    return [
        (column, ("ours", "paper") if any(row["paper"][column] is not None for row in rows) else ("ours",))
        for column in columns
    ]


def labels(varies: str, rows: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """What stands before the numbers: headings and columns, the paper's labels only where a row has one."""
    headings, columns = [varies], [[row["label"] for row in rows]]
    if any(row["paper_label"] for row in rows):
        headings.append("paper's row")
        columns.append([row["paper_label"] for row in rows])
    return headings, columns


def cells(outcome: Outcome) -> list[list[str]]:
    """Heading and rows; columns of the paper that would be empty are left out."""
    header, columns = labels(outcome["varies"], outcome["rows"])
    for column, sources in shown_columns(outcome["columns"], outcome["rows"]):
        for source in sources:
            header.append(column if source == "ours" else f"{column}, paper")
            values = [row[source][column] for row in outcome["rows"]]
            columns.append(["" if value is None else f"{value:.1f}" for value in values])
    return [header, *map(list, zip(*columns, strict=True))]


def remarks(outcome: Outcome) -> str:
    """The note, and whether the rows are ordered as the paper's."""
    orders = outcome["same_order"]
    if not orders:
        return str(outcome["note"])
    other = [column for column, same in orders.items() if not same]
    order = f"The rows' order is {'not ' if other else ''}the paper's{' in ' + ', '.join(other) if other else ''}."
    return f"{outcome['note']} {order}".strip()
