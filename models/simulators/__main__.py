"""`python -m models.simulators` is `funnelrank simulate`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "simulate")
    runpy.run_module("funnelrank", run_name="__main__")
