"""Reproduce a table or figure of the paper: `python tools/reproduce.py TABLE [--scale miniature|paper] [--dry-run]`."""

import sys

from clipself_d2.reproduce.cli import main

if __name__ == "__main__":
    sys.exit(main())
