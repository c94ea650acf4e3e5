"""What planning takes from a configuration."""

import math

import pytest

from gkd_dist.config.load import load_run_config
from gkd_dist.planning.controller import DRIVERS
from gkd_dist.planning.workload import Lengths, Workload, workload_of
from tests.planned_works import STUDENT

COMMON = ["sampler.engine=vllm", "teacher.engine=vllm", "cluster.mode=ray", "learner.batch_size=64"]


def work_of(*overrides: str) -> Workload:
    config = load_run_config("quickstart", [*COMMON, *overrides])
    shapes = dict.fromkeys(config.named_teachers, STUDENT)
    return workload_of(config, STUDENT, shapes, Lengths(10, 10, 10, 10, "made up"))


@pytest.mark.parametrize(
    ("overrides", "samplers", "teachers"),
    [
        ([], 128, 128),
        (["sampler.engine_args={max_num_seqs: 32}"], 32, 128),
        (["sampler.engine=hf", "sampler.max_batch_size=16", "teacher.engine=hf"], 16, 64),
    ],
)
def test_engines_take_as_many_sequences_as_the_ring_expects_of_them(
    overrides: list[str], samplers: int, teachers: int
) -> None:
    work = work_of(*overrides)
    assert (work.max_concurrent, work.teachers[0].max_concurrent) == (samplers, teachers)


def test_requests_and_probes_are_those_of_the_run() -> None:
    work = work_of("sampling.num_generations=8", "supervision.probe_interval_s=7")
    assert (work.num_generations, work.probe_interval_s, work.driver) == (8, 7, DRIVERS["ray"])


def test_nothing_is_probed_in_one_process() -> None:
    work = work_of("cluster.mode=local")
    assert (work.probe_interval_s, work.driver) == (math.inf, DRIVERS["local"])
