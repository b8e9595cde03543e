"""`python -m service COMMAND` is `funnelrank COMMAND`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("funnelrank", run_name="__main__")
