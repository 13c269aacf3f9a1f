"""The same as `clipself save-masks`."""

import sys

from clipself_d2.cli.save_masks import main

if __name__ == "__main__":
    sys.exit(main())
