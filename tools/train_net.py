"""Train and evaluate by a config: `python tools/train_net.py --config-file FILE [--resume] [key=value ...]`."""

import sys

from clipself_d2.engine.main import main

if __name__ == "__main__":
    sys.exit(main())
