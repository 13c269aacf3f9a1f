"""Reproduce a table or figure of the paper: `python tools/reproduce.py TABLE [--scale miniature|paper] [--dry-run]`."""

import signal
import sys

from clipself_d2.reproduce.cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that the run at work ends too
    sys.exit(main())
