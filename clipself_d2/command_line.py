"""Shared by the command-line tools: a parser with one-line errors, and the exit codes."""

import argparse
import functools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn, ParamSpec

from clipself_d2.errors import InputError, Interrupted, RunError, lack_of_resources
from clipself_d2.files import find_config

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


def config_name(text: str) -> str:
    """The type of an argument that names a config, which has to be there: see `find_config`."""
    find_config(text)
    return text


def announce(text: str) -> None:
    """Print what a command is about to do, before its imports; torchrun starts it once per rank."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def weights(text: str) -> str | None:
    """Parse an argument that names weights, a tag or a file: ``null`` stands for random ones, as in a config."""
    return None if text == "null" else text


def exit_codes(
    interrupted: str = "the same command starts again",
) -> Callable[[Callable[P, None]], Callable[P, int]]:
    """Decorate the `main` of a tool: errors become one line on stderr, and the function returns the exit code.

    0 for success; 2 for wrong input (`InputError`, or a file that cannot be read or written); 1 for a run that
    had to stop (`RunError`, or a lack of memory); 130 after Ctrl-C and 143 after SIGTERM. Any other exception is a bug
    and keeps its traceback.

    Args:
        interrupted: what the user can do after Ctrl-C.
    """

    def decorate(main: Callable[P, None]) -> Callable[P, int]:
        @functools.wraps(main)
        def with_exit_code(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                with signal_handlers([signal.SIGTERM], _interrupt), warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "torch.meshgrid")  # PyTorch's, of Detectron2's anchors
                    main(*args, **kwargs)
            except KeyboardInterrupt as error:
                print(f"{error if str(error) else 'interrupted'}; {interrupted}", file=sys.stderr)
                return 128 + getattr(error, "signum", signal.SIGINT)
            except Exception as error:
                line = lack_of_resources(error) or error
                if not isinstance(line, InputError | OSError | RunError):
                    raise
                print(f"error: {line}", file=sys.stderr)
                return 1 if isinstance(line, RunError) else 2
            return 0

        return with_exit_code

    return decorate


@contextmanager
def signal_handlers(signums: Iterable[int], handle: Callable[[int], object]) -> Iterator[None]:
    """Within the block, call `handle` with each signal to this process; forks of it end by them as usual."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    pid = os.getpid()
    before = {
        each: signal.signal(each, lambda signum, _: handle(signum) if os.getpid() == pid else end_by(signum))
        for each in signums
    }
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def end_by(signum: int) -> None:
    """End this process at once, as a signal does that nobody handles."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def _interrupt(signum: int) -> NoReturn:
    raise Interrupted(signum)
