"""The same as `clipself proposals`."""

import sys

from clipself_d2.cli.proposals import main

if __name__ == "__main__":
    sys.exit(main())
