"""Keys that nothing in the run would read are refused, and left out of the written configuration."""

import pytest

from gkd_dist.config.base import Strict
from gkd_dist.config.load import dump_run_config, load_run_config
from gkd_dist.config.owners import idle_keys, without_effect
from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError

OF_REPLICAS = (
    "probe_interval_s", "probe_timeout_s", "failures_to_condemn", "successes_to_clear", "max_restarts",
    "restart_backoff_s", "max_restart_backoff_s", "role_loss_grace_s", "max_learner_restarts", "drain_timeout_s",
    "catch_up_timeout_s",
)  # fmt: skip
SERVER = ("teacher.engine=server", "teacher.transport=topk", "teacher.base_url=http://host/v1")
SEQUENCE = ("objective.divergence=sequence_reverse_kl", "objective.student_fraction=1")
ENTAILMENT = ("objective.alpha=0.5", "reward.type=entailment", "reward.model=m")


def load(*overrides: str) -> RunConfig:
    return load_run_config("tiny", ("student.model=s", "teacher.model=t", *overrides))


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (("objective.topk_tail=bucket",), "objective.topk_tail: no teacher has transport=topk"),
        (("objective.max_importance=3",), "objective.max_importance: caps the weights of a policy gradient"),
        (("objective.max_importance=3", *SEQUENCE), "objective.max_importance: caps"),
        (("objective.max_importance=3", "sampling.temperature=0.7"), "objective.max_importance: caps"),
        (("cluster.num_gpus_reward=1",), "cluster.num_gpus_reward: no model computes the reward"),
        (
            ("objective.alpha=0.5", "reward.type=answer", "cluster.num_cpus_reward=1"),
            "cluster.num_cpus_reward: no model computes the reward",
        ),
        (("metrics.ray_bridge=true",), "metrics.ray_bridge: cluster.mode=local starts no Ray"),
        (("weights.kv_cache=recompute",), "weights.kv_cache: the hf sampler takes new weights between"),
        (("sampler.engine=vllm", "sampler.max_batch_size=7"), "sampler: engine=vllm does not use max_batch_size"),
        *(
            (("cluster.mode=local", f"supervision.{key}=1"), f"supervision.{key}: cluster.mode=local is one process")
            for key in OF_REPLICAS
        ),
        (("cluster.resources_reward={a: 1}",), "cluster.resources_reward: no model computes the reward"),
        ((*SERVER, "cluster.resources_per_teacher={a: 1}"), "cluster.resources_per_teacher: every teacher is behind"),
        ((*SERVER, "cluster.num_gpus_per_teacher=1"), "cluster.num_gpus_per_teacher: every teacher is behind a server"),
    ],
)
def test_a_key_without_effect_is_refused(overrides: tuple[str, ...], start: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    (problem,) = caught.value.problems
    assert problem.startswith(start)
    assert "remove" in problem


@pytest.mark.parametrize(
    "overrides",
    [
        ("teacher.transport=topk", "objective.topk_tail=generalized"),
        (*SEQUENCE, "sampling.temperature=0.7", "objective.max_importance=3"),
        (*ENTAILMENT, "cluster.num_gpus_reward=1", "cluster.num_cpus_reward=2"),
        ("cluster.num_gpus_per_teacher=1",),
        ("teacher.dtype=bfloat16", *SERVER),
        ("cluster.mode=ray", "metrics.ray_bridge=true"),
        ("sampler.engine=vllm", "weights.kv_cache=recompute"),
        ("sampler.engine=hf", "sampler.max_batch_size=7"),
        ("cluster.mode=ray", "supervision.probe_interval_s=9", "supervision.max_restarts=0"),
        ("cluster.mode=local", "cluster.request_timeout_s=3", "supervision.stall_timeout_s=4"),
        (),
    ],
)
def test_a_key_with_effect_is_kept_and_the_written_configuration_loads(
    overrides: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = load(*overrides)
    path = tmp_path_factory.mktemp("run") / "config.yaml"
    path.write_text(dump_run_config(config))
    assert load_run_config(str(path)) == config


OWNERS = {("kind", "a"): ("x", "y"), ("kind", "b"): ("y",), ("speed", "fast"): ("x", "z")}


class Section(Strict):
    kind: str = "c"
    speed: str = "slow"
    x: int = 0
    y: int = 0
    z: int = 0


def test_a_key_is_idle_unless_one_of_its_owners_is_chosen() -> None:
    assert idle_keys(OWNERS, Section()) == {"x", "y", "z"}
    assert idle_keys(OWNERS, Section(kind="b")) == {"x", "z"}
    assert idle_keys(OWNERS, Section(speed="fast")) == {"y"}


def test_every_setting_that_owns_an_idle_key_is_named() -> None:
    assert without_effect(OWNERS, Section(), {"y"}) == [
        "kind=c does not use y; set kind=a or b, or remove what it does not use"
    ]
    assert without_effect(OWNERS, Section(kind="a", speed="fast"), {"x", "y", "z"}) == []
    assert [line.partition(";")[0] for line in without_effect(OWNERS, Section(), {"x", "z"})] == [
        "kind=c does not use x",
        "speed=slow does not use x and z",
    ]
