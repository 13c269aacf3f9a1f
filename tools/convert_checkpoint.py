"""The same as `clipself convert`."""

import sys

from clipself_d2.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
