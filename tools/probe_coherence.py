"""The same as `clipself coherence`."""

import sys

from clipself_d2.cli.coherence import main

if __name__ == "__main__":
    sys.exit(main())
