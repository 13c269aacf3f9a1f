"""`python -m clipself_d2`: the command `clipself` where its script is not on the PATH."""

import sys

from clipself_d2.cli import main

if __name__ == "__main__":
    sys.exit(main())
