"""The tables and figures of the paper: `tools/reproduce.py` of the clone that this package is installed from."""

import sys
from collections.abc import Sequence
from pathlib import Path

from clipself_d2.command_line import exit_codes
from clipself_d2.errors import InputError

TOOLS = Path(__file__).parents[2] / "tools"


@exit_codes()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exits with its code."""
    if not (TOOLS / "reproduction").is_dir():
        raise InputError("reproduce needs a clone of the repository: run python tools/reproduce.py there")
    sys.path.insert(0, str(TOOLS))
    from reproduction.command import main as reproduce

    sys.exit(reproduce(argv))
