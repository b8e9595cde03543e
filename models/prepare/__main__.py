"""`python -m models.prepare` is `funnelrank prepare`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "prepare")
    runpy.run_module("funnelrank", run_name="__main__")
