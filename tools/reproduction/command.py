"""Reproduce tables and figures of the paper: our numbers beside the paper's.

A run that has been finished is not run again, in whichever table it appears; an interrupted one goes on from its last
checkpoint. Runs lie in output/reproduce/runs, the numbers and figures of a table in output/reproduce/TABLE-SCALE;
`all` also writes them on one page, output/reproduce/all-SCALE/report.html, and says in which columns the paper's order
holds.

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
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.errors import InputError, RunError
from reproduction.catalog import ENTRIES, SCALES, find, names

if TYPE_CHECKING:
    from reproduction.outcome import Outcome
    from reproduction.plan import Planner
    from reproduction.session import Runner
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
def main(argv: Sequence[str] | None = None, run: Runner | None = None) -> None:
    """Run the command line; returns the exit code. `run` executes a job, by default `session.run_tool`."""
    args = parse_args(argv)
    if args.list:
        for name in names(args.scale):
            print(f"{name:9} {find(name, args.scale).title}")
        return

    from reproduction.plan import Planner
    from reproduction.session import run_tool

    tables = [find(name, args.scale) for name in (names(args.scale) if args.table == ALL else [args.table])]
    planner = Planner(args.output, args.opts, args.device, args.num_gpus)
    if args.dry_run:
        dry_run(tables, planner, args.redo)
    else:
        reproduce(tables, planner, run or run_tool, args)


def reproduce(tables: Sequence[Table], planner: Planner, run: Runner, args: argparse.Namespace) -> None:
    """Run what has not been run, each run once; print and write every table.

    `all` has a page, written anew after each table; one that fails does not keep the others from being made.

    Raises:
        InputError, RunError, OSError: what stopped the only table; a RunError for some of `all`.
    """
    from reproduction.needs import check
    from reproduction.outcome import as_text, table_folder, verdicts, write_table
    from reproduction.page import write_page
    from reproduction.session import Session, duration, say

    jobs = {job.digest: job for table in tables for job in planner.jobs(table)}.values()
    if args.redo:
        check(jobs)
        for job in jobs:
            shutil.rmtree(job.folder, ignore_errors=True)
    session = Session(jobs, run)
    outcomes: dict[str, Outcome] = {}
    errors: dict[str, Exception] = {}
    place = planner.output / f"{ALL}-{args.scale}/report.html" if args.table == ALL else None
    for table in tables:
        try:
            session.finish(planner.jobs(table))
            outcomes[table.name] = write_table(table, planner)
            print(as_text(outcomes[table.name], args.markdown))
        except (InputError, RunError, OSError) as error:
            if not place:
                raise
            errors[table.name] = error
            say(f"{table.label} failed: {error}")
        if place:
            write_page(place, tables, outcomes, errors)
    if place:
        print(
            verdicts({table.label: outcomes[table.name] for table in tables if table.name in outcomes}, args.markdown)
        )
    seconds = sum(job.record["seconds"] for job in jobs if job.record)
    say(f"all runs took {duration(seconds)}; written to {place or table_folder(tables[0], planner)}")
    if errors:
        raise RunError(f"{len(errors)} of {len(tables)} tables failed: {', '.join(errors)}")


def dry_run(tables: Sequence[Table], planner: Planner, redo: bool) -> None:
    """Print what would be run, each run once, what that needs, and how long it takes as far as that is known.

    Raises:
        InputError: when something is not there.
    """
    from reproduction.needs import check, needs
    from reproduction.session import duration, time_left

    jobs = {job.digest: job for table in tables for job in planner.jobs(table)}.values()
    pending = [job for job in jobs if redo or not job.record]
    print("\n".join(table.heading for table in tables), end="\n\n")
    for job in jobs:
        print(f"{job.command}{'' if job in pending else '  # done before'}")
    print("\nneeds")
    for what, there in {what: there for job in pending for what, there in needs(job).items()}.items():
        print(f"  {'ok     ' if there else 'MISSING'}  {what}")
    done = sum(job.record["seconds"] for job in jobs if job.record)
    print(f"\n{len(jobs)} runs; {len(jobs) - len(pending)} done before, in {duration(done)}", end="")
    left = time_left(list(jobs)) + (done if redo else 0)
    print(f"; the others take about {duration(left)}" if done and pending else "")
    check(pending)
