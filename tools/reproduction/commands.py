"""What tools/reproduce.py does after it has parsed its arguments."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from clipself_d2.errors import InputError, RunError
from reproduction.figures import FIGURES
from reproduction.plan import Job, Planner, check, distinct
from reproduction.report import Outcome, gather, markdown, rich_table, table_folder, write_page
from reproduction.session import Runner, Session, duration, expected, is_finished, recorded, write_json
from reproduction.tables import Table


def reproduce(
    tables: Sequence[Table], planner: Planner, run: Runner, redo: bool, as_markdown: bool, page: Path | None
) -> dict[str, Exception]:
    """Run what has not been run, each run once; print and write every table.

    Args:
        tables: of one scale.
        planner: plans their runs.
        run, redo: see `Session`.
        as_markdown: print Markdown.
        page: the HTML page, written anew after every table. A table that fails does not keep the others from being
            made. None: no page, and the first failure ends it.

    Returns:
        What stopped tables that failed, by their names.
    """
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    planned: dict[str, list[Job]] = {}
    outcomes: dict[str, Outcome] = {}
    errors: dict[str, Exception] = {}
    for table in tables:
        try:
            planned[table.name] = planner.jobs(table)
        except InputError as error:
            if page is None:
                raise
            errors[table.name] = error
    jobs = distinct(job for group in planned.values() for job in group)
    session = Session(jobs, run, console, redo)
    seconds = 0.0
    for table in tables:
        try:
            if table.name in planned:
                session.finish(planned[table.name])
                outcomes[table.name] = write_table(table, planner)
                show(outcomes[table.name], as_markdown)
        except (InputError, RunError, OSError) as error:
            if page is None:
                raise
            errors[table.name] = error
            console.print(f"{table.label} failed: {error}")
        seconds = sum(recorded(job)["seconds"] for job in jobs if is_finished(job))
        if page:
            write_page(page, tables, outcomes, errors, seconds)
    console.print(f"all runs took {duration(seconds)}; written to {page or table_folder(tables[0], planner)}")
    return errors


def write_table(table: Table, planner: Planner) -> Outcome:
    """Write `TABLE-SCALE/results.json` and the table's figures; returns what `gather` gives, with "figures"."""
    outcome, folder = gather(table, planner), table_folder(table, planner)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", outcome)  # numbers are kept, even if a figure fails
    if table.figure:
        outcome["figures"] = [path.name for path in FIGURES[table.figure](table, planner, folder)]
        write_json(folder / "results.json", outcome)
    return outcome


def show(outcome: Outcome, as_markdown: bool) -> None:
    """Print a table."""
    if as_markdown:
        print(markdown(outcome), end="\n\n")
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(rich_table(outcome))  # 80 would cut it


def dry_run(tables: Sequence[Table], planner: Planner, redo: bool) -> None:
    """Print what would be run, each run once, what that needs, and how long it takes as far as that is known.

    Raises:
        InputError: when something is not there.
    """
    jobs = distinct(job for table in tables for job in planner.jobs(table))
    pending = [job for job in jobs if redo or not is_finished(job)]
    print("\n".join(table.heading for table in tables), end="\n\n")
    for job in jobs:
        print(f"{job.command}{'' if job in pending else '  # done before'}")
    print("\nneeds")
    for what, there in {what: there for job in pending for what, there in job.needs.items()}.items():
        print(f"  {'ok     ' if there else 'MISSING'}  {what}")
    known = {job.digest: (job, recorded(job)["seconds"]) for job in jobs if is_finished(job)}
    done, left = sum(seconds for _, seconds in known.values()), expected(pending, known)
    print(f"\n{len(jobs)} runs; {len(jobs) - len(pending)} done before, in {duration(done)}", end="")
    print(f"; the others take about {duration(left)}" if left else "")
    check(pending)
