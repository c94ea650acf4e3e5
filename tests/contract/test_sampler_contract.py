"""What every sampler promises, asked of the fake, of transformers and of vLLM (real engines)."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from gkd_dist.errors import WeightsError
from gkd_dist.interfaces import Sampler
from gkd_dist.testing.fakes import FakeLearner, FakeSampler
from gkd_dist.types import FinishReason, Prompt, SamplingParams, Source, VersionRange, WeightPublication
from tests import tiny

GREEDY = SamplingParams(max_new_tokens=12, temperature=0, stop_token_ids=(tiny.STOP,))
RANDOM = SamplingParams(max_new_tokens=12, temperature=1.0, stop_token_ids=(tiny.STOP,), seed=5)


@dataclass
class Bench:
    """A sampler with a loop of its own, and the model it runs (None for the fake)."""

    name: str
    sampler: Sampler
    runner: asyncio.Runner
    model: Path | None

    def sample(self, prompts: list[Prompt], params: SamplingParams) -> list:
        return self.runner.run(self.sampler.sample(prompts, params))

    def load(self, publication: WeightPublication) -> int:
        return self.runner.run(self.sampler.load_weights(publication))


def make_sampler(name: str, model: Path) -> Sampler:
    if name == "fake":
        return FakeSampler()
    if name == "hf":
        from gkd_dist.samplers.hf_sampler import HfSampler

        return HfSampler(model, dtype="float32", pad_token_id=tiny.PAD)
    from gkd_dist.samplers.vllm_sampler import VllmSampler

    return VllmSampler(str(model), dtype="float32", max_model_len=128, engine_args={"max_num_seqs": 16})


@pytest.fixture(scope="module", params=["fake", "hf", pytest.param("vllm", marks=pytest.mark.vllm)])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    model = tiny.save_causal(tmp_path_factory.mktemp("student"), seed=1)
    with asyncio.Runner() as runner:
        sampler = make_sampler(request.param, model)
        yield Bench(request.param, sampler, runner, None if request.param == "fake" else model)
        runner.run(sampler.close())


def publication_of(bench: Bench, seed: int, version: int) -> tuple[WeightPublication, Path | None]:
    """New weights for the sampler's model, and a folder that holds the same weights."""
    if bench.model is None:
        learner = FakeLearner()
        publication = asyncio.run(learner.publish())
        return replace(publication, manifest=replace(publication.manifest, version=version)), None
    from gkd_dist.weights.publisher import WeightPublisher

    path = tiny.save_causal(bench.model.parent / f"student-{seed}", seed=seed)
    model = AutoModelForCausalLM.from_pretrained(path)
    publisher = WeightPublisher("test", bucket_bytes=1 << 16, dtype="float32")
    return publisher.publish(list(model.named_parameters()), version), path


def test_every_prompt_gets_one_trajectory_in_order(bench: Bench) -> None:
    prompts = tiny.prompts([5, 1, 9, 3])
    trajectories = bench.sample(prompts, RANDOM)
    assert [item.sample_id for item in trajectories] == [prompt.sample_id for prompt in prompts]
    for prompt, item in zip(prompts, trajectories, strict=True):
        assert item.source is Source.STUDENT
        np.testing.assert_array_equal(item.prompt_ids, prompt.token_ids)
        assert 1 <= item.num_completion_tokens <= RANDOM.max_new_tokens


def test_a_completion_ends_with_its_stop_token_or_at_the_limit(bench: Bench) -> None:
    stops = tuple(range(3, 40))
    params = replace(RANDOM, stop_token_ids=stops)
    reasons = set()
    for item in bench.sample(tiny.prompts([4] * 8), params):
        inside, last = item.completion_ids[:-1], item.completion_ids[-1]
        assert not np.isin(inside, stops).any()
        if item.finish_reason is FinishReason.STOP:
            assert last in stops
        else:
            assert item.num_completion_tokens == params.max_new_tokens
        reasons.add(item.finish_reason)
    assert FinishReason.STOP in reasons


def test_a_sample_depends_on_seed_and_id_not_on_its_neighbours(bench: Bench) -> None:
    prompts = tiny.prompts([6, 6, 6, 6])
    together = bench.sample(prompts, RANDOM)
    alone = bench.sample(prompts[2:3], RANDOM)
    np.testing.assert_array_equal(together[2].completion_ids, alone[0].completion_ids)
    if bench.model is not None:
        other = bench.sample(prompts, replace(RANDOM, seed=6))
        assert any(not np.array_equal(a.completion_ids, b.completion_ids) for a, b in zip(together, other, strict=True))


def test_behaviour_log_probs_are_the_models_own(bench: Bench) -> None:
    """Within 1e-4 nats: float32 on both sides, other kernels and another order of summation."""
    if bench.model is None:
        pytest.skip("the fake has no model to compare with")
    model = AutoModelForCausalLM.from_pretrained(bench.model)
    for temperature in (1.0, 0.7):
        for item in bench.sample(tiny.prompts([5, 2, 8]), replace(RANDOM, temperature=temperature)):
            expected = _log_probs(model, item.prompt_ids, item.completion_ids, temperature)
            np.testing.assert_allclose(item.behaviour_log_probs, expected, atol=1e-4)


def test_new_weights_write_the_next_token_and_carry_their_version(bench: Bench) -> None:
    publication, path = publication_of(bench, seed=2, version=3)
    before = bench.sample(tiny.prompts([5, 7]), GREEDY)
    assert bench.load(publication) == 3
    after = bench.sample(tiny.prompts([5, 7]), GREEDY)
    assert [item.versions for item in after] == [VersionRange(3, 3)] * 2
    assert any(not np.array_equal(a.completion_ids, b.completion_ids) for a, b in zip(before, after, strict=True))
    if path is not None:
        expected = _greedy(path, tiny.prompts([5, 7]))
        assert [item.completion_ids.tolist() for item in after] == expected


def test_a_damaged_publication_is_refused_and_changes_nothing(bench: Bench) -> None:
    publication, _ = publication_of(bench, seed=4, version=9)
    before = bench.sample(tiny.prompts([5]), GREEDY)
    damaged = list(publication.buckets)
    damaged[0] = np.asarray(damaged[0])[:-1]
    with pytest.raises(WeightsError):
        bench.load(replace(publication, buckets=tuple(damaged)))
    after = bench.sample(tiny.prompts([5]), GREEDY)
    np.testing.assert_array_equal(before[0].completion_ids, after[0].completion_ids)
    assert after[0].versions == before[0].versions


@pytest.mark.vllm
def test_updated_vllm_equals_a_fresh_vllm_on_the_new_weights(tmp_path: Path) -> None:
    old = tiny.save_causal(tmp_path / "old", seed=1)
    prompts = tiny.prompts([3, 6, 9, 12], seed=8)
    with asyncio.Runner() as runner:
        updated = make_sampler("vllm", old)
        publication, new = publication_of(Bench("vllm", updated, runner, old), seed=2, version=1)
        runner.run(updated.load_weights(publication))
        ours = runner.run(updated.sample(prompts, GREEDY))
        runner.run(updated.close())
    with asyncio.Runner() as runner:
        fresh = make_sampler("vllm", new)
        theirs = runner.run(fresh.sample(prompts, GREEDY))
        runner.run(fresh.close())
    assert [item.completion_ids.tolist() for item in ours] == [item.completion_ids.tolist() for item in theirs]


@torch.no_grad()
def _log_probs(model: torch.nn.Module, prompt: np.ndarray, completion: np.ndarray, temperature: float) -> np.ndarray:
    tokens = torch.from_numpy(np.concatenate([prompt, completion])).long()
    logits = model(tokens[None]).logits[0, prompt.size - 1 : -1] / temperature
    chosen = torch.from_numpy(completion.copy()).long()[:, None]
    return torch.log_softmax(logits, dim=-1).gather(1, chosen)[:, 0].numpy()


@torch.no_grad()
def _greedy(path: Path, prompts: list[Prompt]) -> list[list[int]]:
    model = AutoModelForCausalLM.from_pretrained(path)
    completions = []
    for prompt in prompts:
        tokens = prompt.token_ids.tolist()
        while len(tokens) < prompt.token_ids.size + GREEDY.max_new_tokens:
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == tiny.STOP:
                break
        completions.append(tokens[prompt.token_ids.size :])
    return completions
