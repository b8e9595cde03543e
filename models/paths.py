"""`python -m models.paths` is `funnelrank paths`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "paths")
    runpy.run_module("funnelrank", run_name="__main__")
