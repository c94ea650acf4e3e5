"""What several learner ranks need of the rest of a configuration."""

import pytest

from gkd_dist.config.load import load_run_config
from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError


def load(*overrides: str) -> RunConfig:
    return load_run_config("tiny", ("student.model=s", "teacher.model=t", "data.path=d", *overrides))


def test_one_rank_is_the_default_and_goes_everywhere() -> None:
    assert load("cluster.mode=local", "learner.optimizer=adafactor").learner.num_ranks == 1
    assert load("cluster.mode=ray", "learner.num_ranks=3").learner.num_ranks == 3


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("cluster.mode=local",), "learner.num_ranks: 2 ranks are processes"),
        (("cluster.mode=ray", "learner.optimizer=adafactor"), "learner.optimizer: adafactor"),
        (("cluster.mode=ray", "student.lora={r: 4}"), "student.lora: adapters"),
        (("cluster.mode=ray", "learner.num_ranks=0"), "learner.num_ranks"),
    ],
)
def test_what_ranks_cannot_do_is_refused(overrides: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("learner.num_ranks=2", *overrides)
    (found,) = caught.value.problems
    assert found.startswith(problem)
    assert "num_ranks=1" in found or "num_ranks=0" in overrides[-1]
