"""`python -m funnelrank` is the `funnelrank` command."""

import sys

from funnelrank.main import main

sys.exit(main())
