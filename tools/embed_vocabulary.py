"""The same as `clipself embed`."""

import sys

from clipself_d2.cli.embed import main

if __name__ == "__main__":
    sys.exit(main())
