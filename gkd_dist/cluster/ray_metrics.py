"""The catalogue's metrics in Ray too, for whoever scrapes nothing else (`metrics.ray_bridge`).

There every name begins with `ray_`, and every series has labels of Ray's own beside ours.
"""

import math
import threading
import time
from collections.abc import Callable

import ray
from ray.util.metrics import Counter, Gauge, Histogram, Metric

from gkd_dist import __version__
from gkd_dist.interfaces import Metrics
from gkd_dist.metrics.catalogue import Kind, definition_of

_REFRESH_S = 5.0
"""Ray forgets a gauge that was not set within its report interval, 10 s unless changed."""


class RayMetrics:
    """Implements `interfaces.Metrics`: passes everything on to `inner`, and to Ray once this process has joined it.

    Gauges are set again every few seconds, with whatever comes then: a run says something every second.

    Ray takes no 0 as the increase of a counter, so a counter appears there with its first increase; no bucket up to 0,
    so a histogram lacks that one; and what is not a finite number is left out. What happens after the end of the
    session reaches `inner` alone.

    Args:
        inner: refuses what the catalogue does not have; it is asked first.
        clock: monotonic seconds.
    """

    def __init__(self, inner: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refreshed_at = clock()
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        """The last value of each series."""
        self._inner = inner
        self._known: dict[str, Metric] = {}
        self._early: list[Callable[[], None]] | None = []
        """What happened before the session; None from its begin on."""
        self._lock = threading.Lock()
        self._set("gkd_build_info", 1, {"version": __version__})

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        self._inner.count(name, amount, **labels)
        if amount > 0:
            self._forward(name, amount, labels)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self._inner.gauge(name, value, **labels)
        self._set(name, value, labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        self._inner.observe(name, value, **labels)
        self._forward(name, value, labels)

    def _set(self, name: str, value: float, labels: dict[str, str]) -> None:
        series = (name, tuple(labels.items()))
        if math.isfinite(value):
            self._gauges[series] = value
            self._forward(name, value, labels)
        else:
            self._gauges.pop(series, None)

    def _forward(self, name: str, value: float, labels: dict[str, str]) -> None:
        with self._lock:
            if not ray.is_initialized():
                if self._early is not None:
                    self._early.append(lambda: self._record(name, value, labels))
                return
            early, self._early = self._early or [], None
            for record in early:
                record()
            self._record(name, value, labels)
            if self._clock() - self._refreshed_at >= _REFRESH_S:
                self._refreshed_at = self._clock()
                for (gauge, pairs), last in list(self._gauges.items()):
                    self._record(gauge, last, dict(pairs))

    def _record(self, name: str, value: float, labels: dict[str, str]) -> None:
        if name not in self._known:
            self._known[name] = _made(name)
        metric = self._known[name]
        if isinstance(metric, Counter):
            metric.inc(value, labels)
        elif isinstance(metric, Histogram):
            metric.observe(value, labels)
        elif isinstance(metric, Gauge):
            metric.set(float(value), labels)


def _made(name: str) -> Metric:
    definition = definition_of(name)
    tags = tuple(definition.labels)
    match definition.kind:
        case Kind.COUNTER:
            return Counter(name, definition.help, tags)
        case Kind.GAUGE:
            return Gauge(name, definition.help, tags)
        case Kind.HISTOGRAM:
            return Histogram(name, definition.help, [bound for bound in definition.buckets if bound > 0], tags)
