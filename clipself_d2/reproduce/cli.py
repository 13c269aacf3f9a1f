"""The command line of `tools/reproduce.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from clipself_d2.command_line import ArgumentParser, exit_codes
from clipself_d2.reproduce.engine import Runner, check, is_finished, reproduce, run_tool, table_folder, write_json
from clipself_d2.reproduce.entries import ENTRIES, SCALES, find, names
from clipself_d2.reproduce.figures import FIGURES
from clipself_d2.reproduce.plan import Planner
from clipself_d2.reproduce.render import markdown, rich_table
from clipself_d2.reproduce.table import Table

EXAMPLES = """
examples:
  python tools/reproduce.py --list
  python tools/reproduce.py 3a
  python tools/reproduce.py 2 --scale paper --dry-run
  python tools/reproduce.py 2 --scale paper --num-gpus 8
  python tools/reproduce.py fig3 --markdown train.max_iter=100

A run that has been finished is not run again, in whichever table it appears; an interrupted one goes on from its last
checkpoint. Runs lie in output/reproduce/runs, the numbers and pictures of a table in output/reproduce/TABLE-SCALE.
"""


@exit_codes(interrupted="the same command goes on from the last checkpoint")
def main(argv: Sequence[str] | None = None, run: Runner = run_tool) -> None:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    if args.list:
        for name in names(args.scale):
            print(f"{name:4} {find(name, args.scale).title}")
        return
    table = find(args.table, args.scale)
    planner = Planner(args.output, args.opts, args.device, args.num_gpus)
    if args.dry_run:
        dry_run(table, planner, args.redo)
        return
    console = Console(stderr=True)
    outcome = reproduce(table, planner, run, console, args.redo)
    if table.figure:
        folder = table_folder(table, planner)
        paths = FIGURES[table.figure](table, outcome, planner, folder)
        outcome["figures"] = [path.name for path in paths]
        write_json(folder / "results.json", outcome)
    if args.markdown:
        print(markdown(outcome), end="")
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(rich_table(outcome))  # 80 would cut it
    console.print(f"written to {table_folder(table, planner)}", highlight=False)


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
    add("table", nargs="?", metavar="TABLE", help=f"one of {', '.join(ENTRIES)}")
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
        parser.error(f"name a table: {', '.join(ENTRIES)}")
    return args


def dry_run(table: Table, planner: Planner, redo: bool) -> None:
    """Print what would be run and what that needs.

    Raises:
        InputError: when something is not there.
    """
    jobs = planner.jobs(table)
    pending = [job for job in jobs if redo or not is_finished(job)]
    print(f"{table.heading}\n")
    for job in jobs:
        print(f"{job.command}{'' if job in pending else '  # done before'}")
    print("\nneeds")
    for need in dict.fromkeys(need for job in pending for need in job.needs):
        print(f"  {'MISSING' if need.missing else 'ok     '}  {need.what}")
    check(pending)
