"""What all experiment trackers have in common: which numbers they get, and that they never end a run (floor F2)."""

import logging
import math

from gkd_dist.errors import plain
from gkd_dist.interfaces import RecordSink
from gkd_dist.metrics.sinks import Record

logger = logging.getLogger(__name__)

PROJECT = "gkd"
"""Where a tracker wants one and the environment names none."""
_MAX_FAILURES = 3


def numbers_of(record: Record) -> dict[str, float]:
    """The finite numbers of a record by their own names, which are those of metrics.jsonl; the step goes beside them,
    as every tracker wants it."""
    found = {}
    for name, value in record.items():
        number = float(value) if isinstance(value, int | float) else math.nan
        if math.isfinite(number) and name != "step":
            found[name] = number
    return found


class Tracker:
    """Implements `interfaces.RecordSink` around a tracker's own: what that raises in mid-run is logged, and after some
    failures in a row it is told nothing more.

    Args:
        name: for messages.
    """

    def __init__(self, name: str, sink: RecordSink) -> None:
        self._name = name
        self._sink = sink
        self._num_failures = 0

    def write(self, record: Record) -> None:
        if self._num_failures >= _MAX_FAILURES:
            return
        try:
            self._sink.write(record)
            self._num_failures = 0
        except Exception as error:
            self._num_failures += 1
            rest = "; it is told nothing more" if self._num_failures >= _MAX_FAILURES else ""
            logger.warning("%s did not take a record: %s%s", self._name, plain(error), rest)

    def close(self) -> None:
        try:
            self._sink.close()
        except Exception as error:
            logger.warning("%s could not be closed: %s", self._name, plain(error))
