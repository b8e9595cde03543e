"""`python -m models.list` is `funnelrank models`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "models")
    runpy.run_module("funnelrank", run_name="__main__")
