"""The command `python -m models.paths`."""

import sys

from models.reports.paths import main

if __name__ == "__main__":
    sys.exit(main())
