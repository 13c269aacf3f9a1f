"""Reproduce tables and figures of the paper: our numbers beside the paper's.

A run that has been finished is not run again, in whichever table it appears; an interrupted one goes on from its last
checkpoint. Runs lie in output/reproduce/runs, the numbers and pictures of a table in output/reproduce/TABLE-SCALE;
`all` also writes them on one page, output/reproduce/all-SCALE/report.html.

Examples:
  python tools/reproduce.py --list
  python tools/reproduce.py 3a
  python tools/reproduce.py 2 --scale paper --dry-run
  python tools/reproduce.py 2 --scale paper --num-gpus 8
  python tools/reproduce.py fig3 --markdown train.max_iter=100
  python tools/reproduce.py all
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.errors import InputError, RunError
from reproduction.catalog import ENTRIES, SCALES, find, names
from reproduction.figures import FIGURES
from reproduction.plan import Job, Planner, check, distinct
from reproduction.report import Outcome, gather, markdown, rich_table, table_folder, write_page
from reproduction.session import Runner, Session, duration, expected, is_finished, recorded, run_tool, write_json
from reproduction.tables import Table

ALL = "all"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the arguments; an InputError for a wrong one."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("table", nargs="?", metavar="TABLE", help=f"one of {', '.join(ENTRIES)}; or {ALL}")
    add("opts", nargs="*", metavar="key=value", help="overrides of the config of every run")
    add("--scale", choices=SCALES, default="miniature", help="OV-Shapes, or COCO with published CLIPs (%(default)s)")
    add("--dry-run", action="store_true", help="print the commands and what they need; exit code 2 if that is missing")
    add("--redo", action="store_true", help="run also what has been run before")
    add("--device", choices=("auto", "cuda", "cpu"), help="of every run (the config's)")
    add("--num-gpus", type=int, default=1, metavar="N", help="ranks of every run (%(default)s)")
    add("--output", default="output/reproduce", metavar="DIR", help="where everything is written (%(default)s)")
    add("--markdown", action="store_true", help="print the table in Markdown")
    add("--list", action="store_true", help="list the tables and stop")
    args = parser.parse_intermixed_args(argv)
    if not (args.table or args.list):
        parser.error(f"name a table: {', '.join(ENTRIES)}, or {ALL}")
    return args


@exit_codes(interrupted="the same command, without --redo, goes on from the last checkpoint")
def main(argv: Sequence[str] | None = None, run: Runner = run_tool) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    if args.list:
        for name in names(args.scale):
            print(f"{name:9} {find(name, args.scale).title}")
        return
    tables = [find(name, args.scale) for name in (names(args.scale) if args.table == ALL else [args.table])]
    planner = Planner(args.output, args.opts, args.device, args.num_gpus)
    if args.dry_run:
        dry_run(tables, planner, args.redo)
        return
    page = planner.output / f"all-{args.scale}/report.html" if args.table == ALL else None
    if errors := reproduce(tables, planner, run, args.redo, args.markdown, page):
        raise RunError(f"{len(errors)} of {len(tables)} tables failed: {', '.join(errors)}")


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
    """Write `TABLE-SCALE/results.json` and the table's pictures; returns what `gather` gives, with "figures"."""
    outcome, folder = gather(table, planner), table_folder(table, planner)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", outcome)  # numbers are kept, whatever becomes of the picture
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


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that the run at work ends too
    sys.exit(main())
