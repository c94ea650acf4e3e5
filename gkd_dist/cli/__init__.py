"""The command line: parses, builds, starts; computes nothing (floor F5).

One module for each noun of the command line. Heavy modules are imported inside the commands, so that `gkd --help` is
instant.
"""

from gkd_dist.cli.entry import main

__all__ = ["main"]
