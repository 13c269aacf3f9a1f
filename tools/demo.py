"""The same as `clipself demo`."""

import sys

from clipself_d2.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
