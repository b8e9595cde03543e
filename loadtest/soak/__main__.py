"""`python -m loadtest.soak` is `funnelrank soak`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "soak")
    runpy.run_module("funnelrank", run_name="__main__")
