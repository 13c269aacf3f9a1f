"""The command line of `tools/reproduce.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.errors import RunError
from clipself_d2.reproduce.engine import Runner, check, is_finished, known_pace, run_tool
from clipself_d2.reproduce.entries import ENTRIES, SCALES, find, names
from clipself_d2.reproduce.outcome import Outcome, table_folder
from clipself_d2.reproduce.pace import duration
from clipself_d2.reproduce.plan import Planner, distinct
from clipself_d2.reproduce.render import markdown, rich_table
from clipself_d2.reproduce.suite import reproduce, reproduce_all
from clipself_d2.reproduce.table import Table

ALL = "all"
EXAMPLES = """
examples:
  python tools/reproduce.py --list
  python tools/reproduce.py 3a
  python tools/reproduce.py 2 --scale paper --dry-run
  python tools/reproduce.py 2 --scale paper --num-gpus 8
  python tools/reproduce.py fig3 --markdown train.max_iter=100
  python tools/reproduce.py all

A run that has been finished is not run again, in whichever table it appears; an interrupted one goes on from its last
checkpoint. Runs lie in output/reproduce/runs, the numbers and pictures of a table in output/reproduce/TABLE-SCALE;
`all` writes them on one page, output/reproduce/all-SCALE/report.html.
"""


@exit_codes(interrupted="the same command, without --redo, goes on from the last checkpoint")
def main(argv: Sequence[str] | None = None, run: Runner = run_tool) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    if args.list:
        for name in names(args.scale):
            print(f"{name:4} {find(name, args.scale).title}")
        return
    whole = args.table == ALL
    tables = [find(name, args.scale) for name in (names(args.scale) if whole else [args.table])]
    planner = Planner(args.output, args.opts, args.device, args.num_gpus)
    if args.dry_run:
        dry_run(tables, planner, args.redo)
        return
    console = Console(stderr=True)
    if not whole:
        [table] = tables
        show(reproduce(table, planner, run, console, args.redo), args.markdown)
        console.print(f"written to {table_folder(table, planner)}", highlight=False, markup=False)
        return
    suite = reproduce_all(tables, planner, run, console, args.redo)
    for outcome in suite.outcomes.values():
        show(outcome, args.markdown)
    text = f"all runs took {duration(suite.seconds)}; written to {suite.page}"
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    if suite.errors:
        raise RunError(f"{len(suite.errors)} of {len(tables)} tables failed: {', '.join(suite.errors)}")


def show(outcome: Outcome, as_markdown: bool) -> None:
    """Print a table."""
    if as_markdown:
        print(markdown(outcome))
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(rich_table(outcome))  # 80 would cut it


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the arguments.

    Raises:
        InputError: for an unknown or missing argument.
    """
    parser = ArgumentParser(
        "reproduce.py",
        description="Reproduce a table or figure of the paper: our numbers beside the paper's.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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


def dry_run(tables: Sequence[Table], planner: Planner, redo: bool) -> None:
    """Print what would be run, each run once, what that needs, and how long it takes as far as that is known.

    Raises:
        InputError: when something is not there.
    """
    jobs = distinct(planner.jobs(table) for table in tables)
    pending = [job for job in jobs if redo or not is_finished(job)]
    print("\n".join(table.heading for table in tables), end="\n\n")
    for job in jobs:
        print(f"{job.command}{'' if job in pending else '  # done before'}")
    print("\nneeds")
    for need in dict.fromkeys(need for job in pending for need in job.needs):
        print(f"  {'MISSING' if need.missing else 'ok     '}  {need.what}")
    pace = known_pace(jobs)
    done, left = pace.total(job for job in jobs if job not in pending), pace.total(pending)
    print(f"\n{len(jobs)} runs; {len(jobs) - len(pending)} done before, in {duration(done or 0)}", end="")
    print("" if left is None or not pending else f"; the others take about {duration(left)}")
    check(pending)
