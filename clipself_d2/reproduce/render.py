"""An outcome as a table: for the terminal, and in Markdown."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from clipself_d2.reproduce.outcome import Outcome


def rich_table(outcome: Outcome) -> Group:
    """Title, table with our numbers beside the paper's, and note, for a rich console."""
    header, *rows = cells(outcome)
    table = RichTable()
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", style="dim" if "paper" in name else "")
    for row in rows:
        table.add_row(*row)
    return Group(Text(outcome["title"], style="bold"), table, Text(remarks(outcome)))


def markdown(outcome: Outcome) -> str:
    """The same table in Markdown."""
    header, *rows = cells(outcome)
    rule = ["---", *("---:" for _ in header[1:])]
    lines = [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
    return "\n".join([f"**{outcome['title']}**", "", *lines, "", remarks(outcome)]).rstrip() + "\n"


def cells(outcome: Outcome) -> list[list[str]]:
    """Heading and rows; columns of the paper that would be empty are left out."""
    rows = outcome["rows"]
    header, columns = [outcome["varies"]], [[row["label"] for row in rows]]
    if any(row["paper_label"] for row in rows):
        header.append("paper's row")
        columns.append([row["paper_label"] for row in rows])
    for column in outcome["columns"]:
        for source, title in (("ours", column), ("paper", f"{column}, paper")):
            values = [row[source][column] for row in rows]
            if source == "ours" or any(value is not None for value in values):
                header.append(title)
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
