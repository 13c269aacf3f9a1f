"""The end of a command that evaluates: one table, and where the rest is."""

import json
from pathlib import Path


def print_results(folder: str | Path) -> None:
    """Print the `results.json` of a run's folder, tasks and metrics, the longer list downwards."""
    from tabulate import tabulate

    results = json.loads(Path(folder, "results.json").read_text())
    metrics = list(dict.fromkeys(metric for values in results.values() for metric in values))
    rows, columns = [*results], metrics
    table = [[results[row].get(column) for column in columns] for row in rows]
    if len(columns) > len(rows):
        rows, columns, table = columns, rows, [list(cells) for cells in zip(*table, strict=True)]
    lines = [[row, *cells] for row, cells in zip(rows, table, strict=True)]
    print(tabulate(lines, ["%", *columns], "simple_outline", floatfmt=".1f", missingval="-"))
    print(f"written to {folder}")
