"""Run a script whose stop-watch (`time.perf_counter`) is the CPU time of its process: what others do is left out.

    .venv/bin/python benchmarks/cpu_clock.py SCRIPT [ARGUMENT ...]

For scripts that compute in one process and on one thread; whatever waits takes no time of this clock.
"""

import runpy
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    time.perf_counter = time.process_time
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
