"""Measure speed and memory: `python tools/benchmark.py NAME [--device cpu|cuda]`."""

import sys

from clipself_d2.benchmark.cli import main

if __name__ == "__main__":
    sys.exit(main())
