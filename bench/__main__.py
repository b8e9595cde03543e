"""`python -m bench` is `funnelrank bench`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "bench")
    runpy.run_module("funnelrank", run_name="__main__")
