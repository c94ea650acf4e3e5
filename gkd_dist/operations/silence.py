"""How long ago a run that somebody works on last said something, and what can be seen of its process."""

import time
from contextlib import suppress
from pathlib import Path

from gkd_dist.runs.lease import BEAT_S
from gkd_dist.runs.lock import Holder
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.runs.status import Status

_FEW_S = 2 * BEAT_S
"""A status comes every second, a sign of life on the lock every `BEAT_S`; a machine under load is late."""
_STATES = {"T": "is stopped", "t": "is stopped by a debugger", "Z": "is dead", "X": "is dead"}


def silent_s(directory: RunDirectory, seen: Status | None) -> float | None:
    """Seconds since it was last seen, by the clock of this host; None: nothing was seen yet."""
    with suppress(OSError):
        return max(0.0, time.time() - (directory.lock if seen is None else directory.status).stat().st_mtime)
    return None


def silence(directory: RunDirectory, holder: Holder | None, seen: Status | None) -> str | None:
    """What to say of a run that is silent for more than a few seconds: `no sign of life for 40 s; the process 123 is
    stopped`. None where it is not, and where nobody works on it."""
    age_s = silent_s(directory, seen)
    if holder is None or age_s is None or age_s <= _FEW_S:
        return None
    who = f"; the process {holder.pid} {_process(holder)}" if holder.is_known else ""
    return f"no sign of life for {age_s // 10 * 10:.0f} s{who}"


def _process(holder: Holder) -> str:
    if not holder.is_local:
        return f"on {holder.host} does not answer"
    try:
        stat = Path(f"/proc/{holder.pid}/stat").read_text()
    except FileNotFoundError:
        return "is gone" if Path("/proc/self/stat").exists() else "does not answer"
    except OSError:
        return "does not answer"
    return _STATES.get(stat.rpartition(")")[2].split()[0], "does not answer")
