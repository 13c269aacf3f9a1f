"""Shared by the command-line tools: a parser with one-line errors, and the exit codes."""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec

from clipself_d2.errors import InputError, RunError

P = ParamSpec("P")

WORDS_HELP = """
Words, wherever a vocabulary is asked for, are either of these. What was read is printed.
  "cat, hot dog/frankfurter"  commas separate classes, slashes the synonyms of a class; the first is its name
  "cat; hot dog, frankfurter" the same, as ODISE writes it
  FILE                        one class per line, commas separate its synonyms; the label files of ODISE and FC-CLIP
  FILE.json                   a list of names and of lists of synonyms
  FILE.yaml                   with names, as YOLO's data.yaml
Quotes keep a name with a separator together: '"AC/DC", "tin, of food"'. An existing file is read whatever its suffix.
"""
"""For the description of tools that call `vocabulary.read_vocabulary`."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, but a wrong argument is an `InputError` without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise the InputError."""
        raise InputError(f"{message} (see --help)")


def exit_codes(
    interrupted: str = "the same command starts again",
) -> Callable[[Callable[P, None]], Callable[P, int]]:
    """Decorate the `main` of a tool: errors become one line on stderr, and the function returns the exit code.

    0 for success; 2 for wrong input (`InputError`, or a file that cannot be read or written); 1 for a run that
    had to stop (`RunError`); 130 after Ctrl-C. Any other exception is a bug and keeps its traceback.

    Args:
        interrupted: what the user can do after Ctrl-C.
    """

    def decorate(main: Callable[P, None]) -> Callable[P, int]:
        @functools.wraps(main)
        def with_exit_code(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                main(*args, **kwargs)
            except (InputError, OSError) as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            except RunError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            except KeyboardInterrupt:
                print(f"interrupted; {interrupted}", file=sys.stderr)
                return 130
            return 0

        return with_exit_code

    return decorate
