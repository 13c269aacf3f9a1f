"""Reproduce tables and figures of the paper: the same as `clipself reproduce` in this clone."""

import sys

from reproduction.command import main

if __name__ == "__main__":
    sys.exit(main())
