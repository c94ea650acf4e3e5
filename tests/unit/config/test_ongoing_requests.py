"""How many requests a replica has in hand, where nothing is said about it."""

import pytest

from gkd_dist.config.load import load_run_config

VLLM_DEFAULT = 128


@pytest.mark.parametrize(
    ("settings", "sampler", "teacher"),
    [
        ((), 2 * VLLM_DEFAULT, 2 * VLLM_DEFAULT),
        (("sampling.num_generations=4",), VLLM_DEFAULT // 2, VLLM_DEFAULT // 2),
        (("sampler.engine_args.max_num_seqs=9", "sampling.num_generations=4"), 5, VLLM_DEFAULT // 2),
        (("sampler.engine=hf", "sampler.max_batch_size=8", "teacher.engine=hf"), 16, 128),
        (("teacher.engine=server", "teacher.transport=topk", "teacher.base_url=http://h:1/v1"), 256, 64),
        (("sampler.max_ongoing_requests=3", "teacher.max_ongoing_requests=1", "sampling.num_generations=4"), 3, 1),
    ],
)
def test_none_is_twice_what_the_engine_works_on_at_once(settings: tuple[str, ...], sampler: int, teacher: int) -> None:
    config = load_run_config(
        "tiny", ["student.model=none", "teacher.model=none", "sampler.engine=vllm", "teacher.engine=vllm", *settings]
    )
    assert config.max_ongoing_requests(config.sampler) == sampler
    assert config.teacher is not None
    assert config.max_ongoing_requests(config.teacher) == teacher
