"""Adapters on a real vLLM engine: as merged weights and applied by the engine itself."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from gkd_dist.config.lora import LoraConfig
from gkd_dist.errors import ConfigError, WeightsError
from gkd_dist.learners.checkpoint import save_student
from gkd_dist.learners.load import load_student
from gkd_dist.learners.model import StudentModel
from gkd_dist.types import SamplingParams, Trajectory, WeightPublication
from gkd_dist.weights.adapters import adapter_tensors
from gkd_dist.weights.publisher import WeightPublisher
from tests import tiny

if TYPE_CHECKING:
    from gkd_dist.samplers.vllm_sampler import VllmSampler

pytestmark = pytest.mark.vllm

GREEDY = SamplingParams(max_new_tokens=12, temperature=0, stop_token_ids=(tiny.STOP,))
ADAPTER = LoraConfig(r=4, publish="adapter")
PROMPTS = tiny.prompts([5, 1, 9, 3])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("base"), seed=1)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def following(base: Path, runner: asyncio.Runner) -> Iterator["VllmSampler"]:
    """An engine that starts with the base model and follows the adapter."""
    sampler = make_sampler(base, ADAPTER)
    yield sampler
    runner.run(sampler.close())


def make_sampler(model: Path, adapter: LoraConfig | None) -> "VllmSampler":
    from gkd_dist.samplers.vllm_sampler import VllmSampler

    return VllmSampler(
        str(model),
        dtype="float32",
        max_model_len=512,
        engine_args={"max_num_seqs": 16, "max_num_batched_tokens": 520},
        num_ids=tiny.VOCABULARY,
        adapter=adapter,
    )


def student_of(base: Path, lora: LoraConfig, seed: int) -> StudentModel:
    student = load_student(base, gradient_checkpointing=False, lora=lora)
    generator = torch.Generator().manual_seed(seed)
    for tensor in adapter_tensors(student.model).values():
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
    return student


def publish(student: StudentModel, version: int) -> WeightPublication:
    return WeightPublisher("test", 1 << 16, "float32").publish(student.published(), version)


def assert_written_by(model: PreTrainedModel, items: list[Trajectory]) -> None:
    """Log-probs within 1e-4 nats: float32 on both sides, other kernels and another order of summation."""
    for item in items:
        np.testing.assert_allclose(item.behaviour_log_probs, chosen_log_probs(model, item), atol=1e-4)


def test_requests_in_flight_go_on_with_the_new_adapter(
    base: Path, runner: asyncio.Runner, following: "VllmSampler"
) -> None:
    """It begins as the base model and does not end as it; the next request is the student's alone."""
    base_model = AutoModelForCausalLM.from_pretrained(base)
    assert_written_by(base_model, runner.run(following.sample(PROMPTS, GREEDY)))
    student = student_of(base, ADAPTER, seed=1)
    params = SamplingParams(max_new_tokens=400, temperature=0, stop_token_ids=())

    async def scenario() -> Trajectory:
        request = asyncio.create_task(following.sample(PROMPTS[:1], params))
        await asyncio.sleep(0.5)
        assert not request.done()
        await following.load_weights(publish(student, 1))
        return (await request)[0]

    item = runner.run(scenario())
    assert (item.versions.oldest, item.versions.newest) == (0, 1)
    unchanged = chosen_log_probs(base_model, item)
    assert item.behaviour_log_probs[0] == pytest.approx(unchanged[0], abs=1e-4)
    assert np.abs(item.behaviour_log_probs[-50:] - unchanged[-50:]).max() > 0.01
    assert_written_by(student.model, runner.run(following.sample(PROMPTS, GREEDY)))


def test_the_engine_applies_every_version_and_keeps_it_when_the_next_is_refused(
    base: Path, runner: asyncio.Runner, following: "VllmSampler"
) -> None:
    student = student_of(base, ADAPTER, seed=2)
    assert runner.run(following.load_weights(publish(student, 2))) == 2
    after = runner.run(following.sample(PROMPTS, GREEDY))
    assert_written_by(student.model, after)
    assert {item.versions.oldest for item in after} == {2}
    other = student_of(base, LoraConfig(r=2, publish="adapter"), seed=3)
    with pytest.raises(WeightsError, match="other shapes"):
        runner.run(following.load_weights(publish(other, 3)))
    assert_written_by(student.model, runner.run(following.sample(PROMPTS, GREEDY)))


def test_merged_publication_equals_a_fresh_engine_of_the_merged_model(
    base: Path, runner: asyncio.Runner, tmp_path: Path
) -> None:
    """The same weights in the same engine: bit for bit."""
    lora = LoraConfig(r=4, save="merged")
    student = student_of(base, lora, seed=1)
    save_student(student, tmp_path / "final", source=base)
    found = []
    for model, publication in ((base, publish(student, 1)), (tmp_path / "final", None)):
        sampler = make_sampler(model, None)
        try:
            if publication is not None:
                runner.run(sampler.load_weights(publication))
            found.append(runner.run(sampler.sample(PROMPTS, GREEDY)))
        finally:
            runner.run(sampler.close())
    for published, fresh in zip(*found, strict=True):
        np.testing.assert_array_equal(published.completion_ids, fresh.completion_ids)
        np.testing.assert_array_equal(published.behaviour_log_probs, fresh.behaviour_log_probs)
    assert_written_by(student.model, found[0])


def test_a_saved_adapter_is_served_by_vllm_itself(base: Path, runner: asyncio.Runner, tmp_path: Path) -> None:
    """As a user would: the base model, `enable_lora`, and the folder that was saved."""
    from vllm import LLM, TokensPrompt
    from vllm import SamplingParams as EngineParams
    from vllm.lora.request import LoRARequest

    student = student_of(base, LoraConfig(r=4, use_rslora=True), seed=1)
    save_student(student, tmp_path / "final", source=base)
    engine = LLM(
        str(base),
        dtype="float32",
        enforce_eager=True,
        enable_lora=True,
        max_model_len=64,
        kv_cache_memory_bytes=1 << 28,
        skip_tokenizer_init=True,
    )
    ids = PROMPTS[0].token_ids.tolist()
    (output,) = engine.generate(
        [TokensPrompt(prompt_token_ids=ids)],
        EngineParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=False),
        lora_request=LoRARequest("final", 1, str(tmp_path / "final")),
    )
    with torch.no_grad():
        for token in output.outputs[0].token_ids:
            assert student.model(torch.tensor([ids])).logits[0, -1].argmax().item() == token
            ids.append(token)


def test_a_rank_that_vllm_does_not_serve_is_refused(base: Path) -> None:
    with pytest.raises(ConfigError, match=r"student\.lora\.r: vLLM serves ranks up to 512"):
        make_sampler(base, LoraConfig(r=513, publish="adapter"))


def chosen_log_probs(model: PreTrainedModel, item: Trajectory) -> np.ndarray:
    ids = torch.from_numpy(np.concatenate([item.prompt_ids, item.completion_ids])).long()[None]
    with torch.no_grad():
        rows = torch.log_softmax(model(ids).logits[0], -1)[item.prompt_ids.size - 1 : -1]
    return rows.gather(1, torch.from_numpy(item.completion_ids).long()[:, None])[:, 0].numpy()
