"""`python -m gkd_dist` is `gkd`."""

import sys

from gkd_dist.cli import main

if __name__ == "__main__":
    sys.exit(main())
