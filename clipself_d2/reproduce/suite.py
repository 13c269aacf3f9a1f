"""Tables out of their runs: one, or all of a scale on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from clipself_d2.errors import InputError, RunError
from clipself_d2.reproduce.engine import Runner, Session, is_finished, recorded, write_json
from clipself_d2.reproduce.figures import FIGURES
from clipself_d2.reproduce.outcome import Outcome, gather, table_folder
from clipself_d2.reproduce.page import write_page
from clipself_d2.reproduce.plan import Job, Planner, distinct
from clipself_d2.reproduce.table import Table


@dataclass
class Suite:
    """What came of several tables.

    Attributes:
        page: the HTML page that shows them all.
        outcomes: the numbers of those that are done, by the table's name.
        errors: what stopped the others.
        seconds: that their runs took, each counted once, this time or before.
    """

    page: Path
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def reproduce(table: Table, planner: Planner, run: Runner, console: Console, redo: bool = False) -> Outcome:
    """Run what has not been run, gather the table's numbers and draw its pictures.

    Args:
        table: the entry.
        planner: plans its runs.
        run: runs a job; see `Session`.
        console: where progress goes.
        redo: run also what has been run before.

    Returns:
        What `gather` gives, and "figures" where the table has a picture; also written to `TABLE-SCALE/results.json` of
        the planner's output.

    Raises:
        InputError: when something that is needed is not there; nothing has been run then.
        RunError: when a run fails; those before it are kept.
    """
    jobs = planner.jobs(table)
    return _finish(table, jobs, planner, Session(jobs, run, console, redo))


def reproduce_all(
    tables: Sequence[Table], planner: Planner, run: Runner, console: Console, redo: bool = False
) -> Suite:
    """Reproduce tables one after another; one that fails does not keep the others from being made.

    A run that several tables share is run once. `all-SCALE/report.html` is written anew after every table, and shows
    what there is.

    Args:
        tables: of one scale.
        planner, run, console, redo: as of `reproduce`.

    Returns:
        What came of them.
    """
    suite = Suite(planner.output / f"all-{tables[0].scale}/report.html")
    planned: dict[str, list[Job]] = {}
    for table in tables:
        try:
            planned[table.name] = planner.jobs(table)
        except InputError as error:
            suite.errors[table.name] = str(error)
    jobs = distinct(planned.values())
    session = Session(jobs, run, console, redo)
    for table in tables:
        try:
            if table.name in planned:
                suite.outcomes[table.name] = _finish(table, planned[table.name], planner, session)
        except (InputError, RunError, OSError) as error:
            suite.errors[table.name] = str(error)
            console.print(f"{table.label} failed: {error}", highlight=False, markup=False, soft_wrap=True)
        suite.seconds = sum(recorded(job)["seconds"] for job in jobs if is_finished(job))
        write_page(suite.page, tables, suite.outcomes, suite.errors, suite.seconds)
    return suite


def _finish(table: Table, jobs: Sequence[Job], planner: Planner, session: Session) -> Outcome:
    session.finish(jobs)
    outcome = gather(table, planner)
    folder = table_folder(table, planner)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", outcome)  # numbers are kept, whatever becomes of the picture
    if table.figure:
        paths = FIGURES[table.figure](table, outcome, planner, folder)
        outcome["figures"] = [path.name for path in paths]
        write_json(folder / "results.json", outcome)
    return outcome
