"""What is counted of replicas, and that it stays within the catalogue's bound however many there are."""

import math

import pytest

from gkd_dist.config.supervision import SLOTS_SHOWN
from gkd_dist.errors import EngineError, RejectedError, WireError
from gkd_dist.metrics.catalogue import DEATHS, DEFINITIONS, MAX_SERIES, Kind
from gkd_dist.metrics.exporter import Exporter
from gkd_dist.supervision.census import Census
from gkd_dist.supervision.failures import ReplicaEndedError
from gkd_dist.supervision.health import State


@pytest.fixture
def exporter() -> Exporter:
    return Exporter()


def lines(exporter: Exporter) -> dict[str, float]:
    text = exporter.text().decode().splitlines()
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in text if line[0] != "#")}


def version(exporter: Exporter, slot: str) -> float:
    return lines(exporter)[f'gkd_replica_weight_version{{role="sampler",slot="{slot}"}}']


def test_the_version_of_a_slot_follows_its_replica(exporter: Exporter) -> None:
    census = Census(exporter)
    census.report("sampler", {0: State.HEALTHY, 1: State.RESTARTING}, 2)
    assert version(exporter, "0") == 0  # as it was built
    assert math.isnan(version(exporter, "1"))
    census.fulfilled("sampler", 0, 3)
    census.report("sampler", {0: State.STALE, 1: State.STALE}, 2)
    assert version(exporter, "0") == 3  # late: it still holds the former one
    assert math.isnan(version(exporter, "1"))
    census.fulfilled("sampler", 1, 4)
    census.report("sampler", {0: State.DEAD, 1: State.HEALTHY}, 2)
    assert math.isnan(version(exporter, "0"))
    assert version(exporter, "1") == 4
    census.report("sampler", {0: State.HEALTHY}, 1)
    assert math.isnan(version(exporter, "1"))  # scaled away


def test_slots_beyond_those_shown_share_the_oldest_version(exporter: Exporter) -> None:
    census, first = Census(exporter), SLOTS_SHOWN
    census.report("sampler", dict.fromkeys(range(first + 3), State.HEALTHY), first + 3)
    assert version(exporter, "rest") == 0
    for slot, held in ((first, 4), (first + 1, 5), (first + 2, 4)):
        census.fulfilled("sampler", slot, held)
    assert version(exporter, "rest") == 4
    census.fulfilled("sampler", first, 6)
    assert version(exporter, "rest") == 4
    census.report("sampler", dict.fromkeys(range(first + 2), State.HEALTHY), first + 2)  # the last one is scaled away
    assert version(exporter, "rest") == 5
    census.report("sampler", {0: State.HEALTHY}, 1)
    assert math.isnan(version(exporter, "rest"))


def test_only_samplers_hold_versions(exporter: Exporter) -> None:
    census = Census(exporter)
    census.report("teacher math", {0: State.HEALTHY}, 1)
    census.fulfilled("teacher math", 0, 7)
    census.failed("teacher math", EngineError("no"))
    assert "gkd_replica_weight_version" not in exporter.text().decode()
    assert lines(exporter)["gkd_weight_sync_failures_total"] == 0


def test_weights_that_were_not_taken_are_counted_and_an_end_on_purpose_is_not(exporter: Exporter) -> None:
    census = Census(exporter)
    census.failed("sampler", EngineError("wrong digest"))
    census.failed("sampler", ReplicaEndedError("it was scaled away", drained=True))
    assert lines(exporter)["gkd_weight_sync_failures_total"] == 1


def test_answers_that_are_not_accepted_are_counted_by_what_is_wrong_with_them(exporter: Exporter) -> None:
    census = Census(exporter)
    for error in (WireError("checksum"), RejectedError("no such id"), RejectedError("too long"), EngineError("dead")):
        census.refused("teacher law", error)
    found = lines(exporter)
    assert found['gkd_messages_rejected_total{reason="frame",role="teacher"}'] == 1
    assert found['gkd_messages_rejected_total{reason="answer",role="teacher"}'] == 2
    assert found['gkd_messages_rejected_total{reason="answer",role="sampler"}'] == 0


def test_many_replicas_make_no_more_series_than_the_catalogue_allows(exporter: Exporter) -> None:
    """Three times as many as have a series of their own, and hundreds of teachers, with every kind of failure."""
    census, teachers = Census(exporter), Census(exporter)
    num_replicas = 3 * SLOTS_SHOWN
    for turn, state in enumerate(State):
        census.report("sampler", dict.fromkeys(range(num_replicas), state), num_replicas)
        for slot in range(num_replicas):
            census.fulfilled("sampler", slot, turn + slot)
        for name in range(100):
            teachers.report(f"teacher {name}", dict.fromkeys(range(5), state), 5)
            teachers.refused(f"teacher {name}", RejectedError("x"))
            for reason in DEATHS:
                teachers.count("gkd_replica_restarts_total", f"teacher {name}", reason=reason)
    census.report("sampler", dict.fromkeys(range(num_replicas), State.HEALTHY), num_replicas)
    found = lines(exporter)
    assert sum(name.startswith("gkd_replica_weight_version") for name in found) == SLOTS_SHOWN + 1
    assert len(found) <= MAX_SERIES
    # The limit is that of the table, counted a second way.
    limit = 0
    for definition in DEFINITIONS:
        sets = 1
        for values in definition.labels.values():
            sets *= max(1, len(values))
        limit += sets * (len(definition.buckets) + 3 if definition.kind is Kind.HISTOGRAM else 1)
    assert limit == MAX_SERIES
    last = len(State) - 1
    assert version(exporter, "rest") == last + SLOTS_SHOWN  # the oldest of those that share it
    assert found['gkd_replicas{role="teacher",state="retired"}'] == 500
