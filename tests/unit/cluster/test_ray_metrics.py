"""The bridge outside of a session of Ray: nothing is lost to the exporter, and nothing that it refuses is passed on."""

import math

import pytest
import ray

from gkd_dist.cluster.ray_metrics import RayMetrics
from gkd_dist.metrics.catalogue import DEFINITIONS, Kind
from gkd_dist.metrics.exporter import Exporter


def test_the_exporter_gets_everything_without_ray() -> None:
    assert not ray.is_initialized()
    exporter, expected = Exporter(), Exporter()
    for metrics in (RayMetrics(exporter), expected):
        metrics.count("gkd_learner_steps_total")
        metrics.count("gkd_learner_trained_tokens_total", 0)
        metrics.gauge("gkd_learner_loss", math.nan)
        metrics.gauge("gkd_replicas", 2, role="sampler", state="healthy")
        metrics.observe("gkd_sample_staleness_versions", 0)
    assert exporter.text() == expected.text()


def test_what_the_catalogue_does_not_have_is_refused() -> None:
    metrics = RayMetrics(Exporter())
    with pytest.raises(ValueError, match="no metric is called"):
        metrics.count("gkd_nonsense_total")
    with pytest.raises(ValueError, match="has labels"):
        metrics.gauge("gkd_replicas", 1)


def test_every_histogram_has_a_bucket_that_ray_accepts() -> None:
    for definition in DEFINITIONS:
        if definition.kind is Kind.HISTOGRAM:
            assert [bound for bound in definition.buckets if bound > 0]


class Recorder:
    """In the place of one of Ray's gauges."""

    def __init__(self, name: str, *_: object) -> None:
        self.name = name

    def set(self, value: float, tags: dict[str, str]) -> None:
        RECORDED.append((self.name, value, tags))


RECORDED: list[tuple[str, float, dict[str, str]]] = []


def test_gauges_are_set_again_before_ray_forgets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    RECORDED.clear()
    monkeypatch.setattr("gkd_dist.cluster.ray_metrics.Gauge", Recorder)
    now = [0.0]
    metrics = RayMetrics(Exporter(), clock=lambda: now[0])
    metrics.gauge("gkd_learner_loss", 2.0)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    metrics.gauge("gkd_replicas", 1, role="sampler", state="dead")
    joined = [name for name, _, _ in RECORDED]
    assert joined == ["gkd_build_info", "gkd_learner_loss", "gkd_replicas"]  # what came before is not lost
    metrics.gauge("gkd_learner_loss", 3.0)
    metrics.gauge("gkd_replicas", math.nan, role="sampler", state="dead")
    RECORDED.clear()
    now[0] = 6.0
    metrics.gauge("gkd_policy_version", 4)
    assert {(name, value) for name, value, _ in RECORDED} == {
        ("gkd_build_info", 1),
        ("gkd_learner_loss", 3.0),
        ("gkd_policy_version", 4),
    }
    RECORDED.clear()
    now[0] = 7.0
    metrics.gauge("gkd_policy_version", 5)
    assert [name for name, _, _ in RECORDED] == ["gkd_policy_version"]
