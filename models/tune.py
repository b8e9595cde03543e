"""`python -m models.tune` is `funnelrank tune`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "tune")
    runpy.run_module("funnelrank", run_name="__main__")
