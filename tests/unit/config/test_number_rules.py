"""Numbers of replicas, ranks, counts and durations that cannot be meant."""

import pytest

from tests import run_configs

MODELS = ("student.model=s", "teacher.model=t", "cluster.mode=ray")


def problems(*settings: str) -> list[str]:
    return run_configs.problems_of("tiny", (*MODELS, *settings))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (("min_replicas=2", "max_replicas=null"), "num_replicas: 1 is below min_replicas (2); set it"),
        (("min_replicas=2", "max_replicas=4"), "num_replicas: 1 is below min_replicas (2); set it"),
        (("num_replicas=5", "max_replicas=4"), "num_replicas: 5 is above max_replicas (4); set it"),
        (("min_replicas=5", "max_replicas=4"), "min_replicas: 5 is above max_replicas (4); lower "),
    ],
)
@pytest.mark.parametrize("role", ["sampler", "teacher"])
def test_numbers_of_replicas_that_contradict_each_other_are_named(
    role: str, settings: tuple[str, ...], problem: str
) -> None:
    (found,) = problems(*(f"{role}.{setting}" for setting in settings))
    assert found.startswith(f"{role}.{problem}")
    if settings[-1] == "max_replicas=null":
        assert "max_replicas" not in found, "nobody has set it"


def test_a_lower_bound_alone_is_enough_where_the_number_keeps_to_it() -> None:
    assert problems("sampler.num_replicas=2", "sampler.min_replicas=2", "sampler.max_replicas=null") == []


WHOLE = (
    "replay.capacity", "replay.max_staleness", "replay.max_uses", "supervision.failures_to_condemn",
    "supervision.successes_to_clear", "supervision.max_restarts", "supervision.infra_attempts",
    "supervision.data_attempts", "supervision.max_dropped", "supervision.max_learner_restarts", "checkpoint.save_steps",
    "checkpoint.save_total_limit", "checkpoint.max_failures",
)  # fmt: skip
DURATIONS = (
    "supervision.probe_interval_s", "supervision.stall_timeout_s", "supervision.hedge_after_s", "checkpoint.timeout_s",
    "cluster.request_timeout_s", "cluster.startup_timeout_s",
)  # fmt: skip


@pytest.mark.parametrize("key", WHOLE)
def test_a_count_that_nobody_can_mean_is_refused(key: str) -> None:
    for number in (10**30, 1_000_001):
        (found,) = [each for each in problems(f"{key}={number}") if each.startswith(f"{key}: must be ")]
        assert "and 1000000" in found


@pytest.mark.parametrize("key", DURATIONS)
def test_a_duration_ends_within_a_month(key: str) -> None:
    for number in ("1e30", "2592001"):
        (found,) = [each for each in problems(f"{key}={number}") if each.startswith(f"{key}: must be ")]
        assert "above 0 and at most 2592000" in found


@pytest.mark.parametrize("address", ["local", "auto", "127.0.0.1:6379", "[::1]:6379", "head.ours:6379", "ray://head:1"])
def test_addresses_that_a_cluster_can_have(address: str) -> None:
    assert problems(f"cluster.address={address!r}") == []


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "head:port", "[::1", "head:0", ":6379", ""])
def test_an_address_that_no_cluster_can_have_is_refused_before_an_engine_starts(address: str) -> None:
    (found,) = problems(f"cluster.address={address!r}")
    assert found.startswith("cluster.address: must be local, auto, or the address of a cluster such as 10.0.0.1:6379")


def test_what_a_mapping_of_numbers_may_hold_is_said() -> None:
    (found,) = problems("cluster.resources_per_sampler={sampler: x}")
    assert found.startswith("cluster.resources_per_sampler: must be a mapping (key: a number above 0), got")
