"""What the command-line tools share: a parser whose mistakes are one line."""

import argparse
from typing import NoReturn

from clipself_d2.errors import InputError


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, but a wrong argument is an `InputError`, said without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise the InputError."""
        raise InputError(f"{message} (see --help)")
