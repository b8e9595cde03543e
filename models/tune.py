"""The command `python -m models.tune`."""

import sys

from models.tuning.tune import main

if __name__ == "__main__":
    sys.exit(main())
