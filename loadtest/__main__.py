"""`python -m loadtest` is `funnelrank loadtest`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "loadtest")
    runpy.run_module("funnelrank", run_name="__main__")
