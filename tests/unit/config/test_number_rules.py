"""Numbers of replicas, ranks, counts and durations that cannot be meant."""

import pytest

from gkd_dist.config.load import load_run_config
from gkd_dist.errors import ConfigError

MODELS = ("student.model=s", "teacher.model=t", "cluster.mode=ray")


def problems(*settings: str) -> tuple[str, ...]:
    try:
        load_run_config("tiny", [*MODELS, *settings])
    except ConfigError as error:
        return error.problems
    return ()


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
    assert problems("sampler.num_replicas=2", "sampler.min_replicas=2", "sampler.max_replicas=null") == ()
