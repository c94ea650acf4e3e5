"""The catalogue as live numbers, served to Prometheus (floor F2).

exporter = Exporter()
port = exporter.serve("127.0.0.1", 9400)
exporter.count("gkd_learner_steps_total")
exporter.gauge("gkd_queue_depth", 3, queue="replay")
exporter.set_ready()
"""

import math
import threading
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from gkd_dist import __version__
from gkd_dist.metrics.catalogue import DEFINITIONS, Definition, Kind, definition_of
from gkd_dist.metrics.discovery import Target
from gkd_dist.metrics.endpoint import Endpoint
from gkd_dist.metrics.scrapes import Scrapes


class Exporter:
    """Implements `interfaces.Metrics` on a registry of its own; safe to use from several threads.

    Counters and histograms are there from the start with value 0, so that rates see their first increase; a gauge
    appears when it is first set, since 0 would be a claim.

    Every method that takes a metric raises ValueError for a name, kind, label or label value that the catalogue does
    not have.
    """

    def __init__(self) -> None:
        self._registry = _Registry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._infos: dict[str, dict[str, str]] = {}
        self._ready = threading.Event()
        self._endpoint: Endpoint | None = None
        self._others: tuple[Target, ...] = ()
        self.scrapes = Scrapes()
        """Who asks for all this, and how often."""
        for definition in DEFINITIONS:
            self._add(definition)
        self.gauge("gkd_build_info", 1, version=__version__)

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add `amount` >= 0 to a counter."""
        self._check(name, Kind.COUNTER, labels)
        if not (math.isfinite(amount) and amount >= 0):
            raise ValueError(f"{name} can only grow by a finite amount, got {amount}")
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge; a value that is not finite is passed on as it is."""
        definition = self._check(name, Kind.GAUGE, labels)
        if definition.is_info and self._infos.setdefault(name, labels) != labels:
            raise ValueError(f"{name} is already {self._infos[name]}; an info metric has one series")
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)
        self._registry.unset_gauges.discard(name)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add one finite value to a histogram."""
        self._check(name, Kind.HISTOGRAM, labels)
        if not math.isfinite(value):
            raise ValueError(f"{name} takes finite values, got {value}")
        histogram = self._histograms[name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def serve(self, host: str, port: int) -> int:
        """Serve `/metrics`, `/healthz`, `/readyz` and `/http_sd` from a thread; returns the port.

        Args:
            port: 0 picks a free one.

        Raises:
            ConfigError: the address cannot be used; names `metrics.port` or `metrics.host`.
            ValueError: it is serving already.
        """
        if self._endpoint is not None:
            raise ValueError(f"already serving on port {self._endpoint.port}")
        self._endpoint = Endpoint(host, port, self.text, self._ready.is_set, lambda: self._others, self.scrapes)
        return self._endpoint.port

    def announce(self, others: Iterable[Target]) -> None:
        """`/http_sd` lists these beside this endpoint."""
        self._others = tuple(others)

    def set_ready(self) -> None:
        """From now on `/readyz` answers 200."""
        self._ready.set()

    def close(self) -> None:
        """Stop serving and free the port; the numbers stay. May be called twice."""
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None

    def _add(self, definition: Definition) -> None:
        name, labels = definition.name, tuple(definition.labels)
        match definition.kind:
            case Kind.COUNTER:
                counter = self._counters[name] = Counter(name, definition.help, labels, registry=self._registry)
                for values in definition.label_sets() if labels else ():
                    counter.labels(**values)
            case Kind.GAUGE:
                self._gauges[name] = Gauge(name, definition.help, labels, registry=self._registry)
                self._registry.unset_gauges.add(name)
            case Kind.HISTOGRAM:
                self._histograms[name] = Histogram(
                    name, definition.help, labels, buckets=definition.buckets, registry=self._registry
                )

    def _check(self, name: str, kind: Kind, labels: dict[str, str]) -> Definition:
        definition = definition_of(name)
        if definition.kind is not kind:
            raise ValueError(f"{name} is a {definition.kind}, not a {kind}")
        if labels.keys() != definition.labels.keys():
            raise ValueError(f"{name} has labels {sorted(definition.labels)}, got {sorted(labels)}")
        for label, value in labels.items():
            allowed = definition.labels[label]
            if allowed and value not in allowed:
                raise ValueError(f"{name}: {label} must be one of {', '.join(allowed)}, got {value!r}")
        return definition


class _Registry(CollectorRegistry):
    """Leaves out creation times, which the catalogue does not have, and gauges that were never set."""

    def __init__(self) -> None:
        super().__init__()
        self.unset_gauges: set[str] = set()

    def collect(self) -> Iterator[Metric]:
        for family in super().collect():
            if family.name in self.unset_gauges:
                continue
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
