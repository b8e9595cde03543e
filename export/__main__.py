"""`python -m export` is `funnelrank export`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "export")
    runpy.run_module("funnelrank", run_name="__main__")
