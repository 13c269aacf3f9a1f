"""The same as `clipself region-text`."""

import sys

from clipself_d2.cli.region_text import main

if __name__ == "__main__":
    sys.exit(main())
