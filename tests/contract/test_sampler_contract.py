"""What every sampler promises, asked of the fake, of transformers (causal, encoder-decoder) and of vLLM."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from gkd_dist.errors import WeightsError
from gkd_dist.interfaces import Sampler
from gkd_dist.testing.fakes import FakeLearner, FakeSampler
from gkd_dist.types import FinishReason, Prompt, SamplingParams, Source, Trajectory, VersionRange, WeightPublication
from tests import plain_forwards, tiny

GREEDY = SamplingParams(max_new_tokens=12, temperature=0, stop_token_ids=(tiny.STOP,))
NUM_ROWS = 160
"""Rows of the student's head; the tokenizer knows the first 128 ids."""
_PACKED = 512
"""Rows of a head that vLLM multiplies with a packed copy on CPU, as it does with those of real models."""
RANDOM = SamplingParams(max_new_tokens=12, temperature=1.0, stop_token_ids=(tiny.STOP,), seed=5)


@dataclass
class Bench:
    """A sampler with a loop of its own, and the model it runs (None for the fake)."""

    name: str
    sampler: Sampler
    runner: asyncio.Runner
    model: Path | None
    version: int = 0
    """Of the newest publication that was made."""

    def sample(self, prompts: list[Prompt], params: SamplingParams) -> list:
        return self.runner.run(self.sampler.sample(prompts, params))

    def load(self, publication: WeightPublication) -> int:
        return self.runner.run(self.sampler.load_weights(publication))


def make_sampler(name: str, model: Path, dtype: str = "float32", num_ids: int = tiny.VOCABULARY) -> Sampler:
    if name == "fake":
        return FakeSampler()
    if name in ("hf", "hf-t5"):
        from gkd_dist.samplers.hf_sampler import HfSampler

        return HfSampler(model, dtype=dtype, pad_token_id=tiny.PAD, num_ids=num_ids)
    from gkd_dist.samplers.vllm_sampler import VllmSampler

    engine_args = {"max_num_seqs": 16, "max_num_batched_tokens": 520, "enforce_eager": name != "vllm-compiled"}
    return VllmSampler(str(model), dtype=dtype, max_model_len=512, engine_args=engine_args, num_ids=num_ids)


def save_student(path: Path, seed: int, name: str) -> Path:
    """A hostile folder: more rows than ids, and a generation config that would bend what is sampled."""
    save = tiny.save_t5 if name == "hf-t5" else tiny.save_causal
    save(path, seed=seed, vocab_size=NUM_ROWS)
    tiny.poison_generation_config(path)
    return path


ENGINES = ["fake", "hf", "hf-t5", *(pytest.param(name, marks=pytest.mark.vllm) for name in ("vllm", "vllm-compiled"))]


@pytest.fixture(scope="module", params=ENGINES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    model = save_student(tmp_path_factory.mktemp("student"), seed=1, name=request.param)
    with asyncio.Runner() as runner:
        sampler = make_sampler(request.param, model)
        yield Bench(request.param, sampler, runner, None if request.param == "fake" else model)
        runner.run(sampler.close())


def publication_of(bench: Bench, seed: int) -> tuple[WeightPublication, Path | None]:
    """New weights for the sampler's model as the next version, and a folder that holds the same weights."""
    bench.version += 1
    if bench.model is None:
        publication = asyncio.run(FakeLearner("test").publish())
        return replace(publication, manifest=replace(publication.manifest, version=bench.version)), None
    path = save_student(bench.model.parent / f"{bench.name}-{seed}", seed, bench.name)
    return publish(path, bench.version, "float32"), path


def publish(path: Path, version: int, dtype: str) -> WeightPublication:
    from gkd_dist.weights.publisher import WeightPublisher

    model = plain_forwards.load(path)
    publisher = WeightPublisher("test", bucket_bytes=1 << 16, dtype=dtype)
    return publisher.publish(list(model.named_parameters()), version)


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
    model = plain_forwards.load(bench.model)
    for temperature in (1.0, 0.7):
        for item in bench.sample(tiny.prompts([5, 2, 8]), replace(RANDOM, temperature=temperature)):
            expected = _log_probs(model, item.prompt_ids, item.completion_ids, temperature)
            np.testing.assert_allclose(item.behaviour_log_probs, expected, atol=1e-4)


def test_ids_beyond_the_tokenizer_are_never_sampled(bench: Bench) -> None:
    """Every fifth row of the head is padding: 16 completions of 40 tokens would not miss it."""
    if bench.model is None:
        pytest.skip("the fake has no model to compare with")
    prompts = tiny.prompts([3] * 16)
    for temperature in (0.0, 2.0):
        params = SamplingParams(max_new_tokens=40, temperature=temperature, seed=3)
        for item in bench.sample(prompts, params):
            assert item.completion_ids.max() < tiny.VOCABULARY


def test_without_stop_ids_a_completion_runs_to_its_limit(bench: Bench) -> None:
    """Whatever the model's folder names as its end."""
    for prompt in tiny.prompts([3] * 4):
        (item,) = bench.sample([prompt], replace(RANDOM, stop_token_ids=()))
        assert item.num_completion_tokens == RANDOM.max_new_tokens
        assert item.finish_reason is FinishReason.LENGTH


def test_new_weights_write_the_next_token_and_carry_their_version(bench: Bench) -> None:
    publication, path = publication_of(bench, seed=2)
    before = bench.sample(tiny.prompts([5, 7]), GREEDY)
    version = bench.load(publication)
    assert version == publication.manifest.version
    after = bench.sample(tiny.prompts([5, 7]), GREEDY)
    assert [item.versions for item in after] == [VersionRange(version, version)] * 2
    assert any(not np.array_equal(a.completion_ids, b.completion_ids) for a, b in zip(before, after, strict=True))
    if path is not None:
        expected = _greedy(path, tiny.prompts([5, 7]))
        assert [item.completion_ids.tolist() for item in after] == expected


def truncated(publication: WeightPublication) -> WeightPublication:
    first, *others = publication.buckets
    return replace(publication, buckets=(np.asarray(first)[:-1], *others))


def flipped(publication: WeightPublication) -> WeightPublication:
    first, *others = publication.buckets
    damaged = np.array(first)
    damaged[damaged.size // 2] ^= 0x40
    return replace(publication, buckets=(damaged, *others))


def of_another_learner(publication: WeightPublication) -> WeightPublication:
    return replace(publication, manifest=replace(publication.manifest, run_epoch="0-zombie"))


def stale(publication: WeightPublication) -> WeightPublication:
    return replace(publication, manifest=replace(publication.manifest, version=0))


def renamed(publication: WeightPublication) -> WeightPublication:
    first, *others = publication.manifest.tensors
    tensors = (replace(first, name="elsewhere"), *others)
    return replace(publication, manifest=replace(publication.manifest, tensors=tensors))


def reshaped(publication: WeightPublication) -> WeightPublication:
    first, *others = publication.manifest.tensors
    tensors = (replace(first, shape=(1, *first.shape)), *others)
    return replace(publication, manifest=replace(publication.manifest, tensors=tensors))


@pytest.mark.parametrize("spoil", [truncated, flipped, of_another_learner, stale, renamed, reshaped])
def test_a_wrong_publication_is_refused_and_changes_nothing(
    bench: Bench, spoil: Callable[[WeightPublication], WeightPublication]
) -> None:
    if bench.model is None and spoil is flipped:
        pytest.skip("the fake computes no digests")
    bench.load(publication_of(bench, seed=2)[0])
    publication, _ = publication_of(bench, seed=4)
    before = bench.sample(tiny.prompts([5]), GREEDY)
    with pytest.raises(WeightsError):
        bench.load(spoil(publication))
    after = bench.sample(tiny.prompts([5]), GREEDY)
    np.testing.assert_array_equal(before[0].behaviour_log_probs, after[0].behaviour_log_probs)
    np.testing.assert_array_equal(before[0].completion_ids, after[0].completion_ids)
    assert after[0].versions == before[0].versions


def test_weights_loaded_while_a_sample_runs_let_it_finish(bench: Bench) -> None:
    """vLLM changes weights between two tokens of the request; transformers between two calls."""
    bench.load(publication_of(bench, seed=2)[0])
    old, params = bench.version, SamplingParams(max_new_tokens=400, temperature=0)
    publication, _ = publication_of(bench, seed=4)

    async def both() -> tuple[list, int]:
        running = asyncio.create_task(bench.sampler.sample(tiny.prompts([4, 9]), params))
        await asyncio.sleep(0.2)
        version = await bench.sampler.load_weights(publication)
        return await running, version

    during, new = bench.runner.run(both())
    assert [item.num_completion_tokens for item in during] == [400, 400]
    assert new == old + 1
    newest = new if bench.name.startswith("vllm") else old
    assert [item.versions for item in during] == [VersionRange(old, newest)] * 2
    assert bench.sample(tiny.prompts([4]), GREEDY)[0].versions == VersionRange(new, new)


@pytest.mark.vllm
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_updated_vllm_equals_a_fresh_one_on_the_new_weights(dtype: str, tied: bool, tmp_path: Path) -> None:
    """Exactly, log-probs too: the same kernels on the same weights. The head is one that vLLM packs."""
    old, new = (
        tiny.save_causal(tmp_path / name, seed=seed, vocab_size=_PACKED, tie_word_embeddings=tied)
        for seed, name in enumerate(("old", "new"))
    )
    ours = _vllm_samples(old, dtype, publish(new, 1, dtype))
    theirs = _vllm_samples(new, dtype, None)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our.completion_ids, their.completion_ids)
        np.testing.assert_array_equal(our.behaviour_log_probs, their.behaviour_log_probs)
    if dtype == "float32":
        model = plain_forwards.load(new)
        for item in ours:
            expected = _log_probs(model, item.prompt_ids, item.completion_ids, 1.0, _PACKED)
            np.testing.assert_allclose(item.behaviour_log_probs, expected, atol=1e-4)


def _vllm_samples(model: Path, dtype: str, publication: WeightPublication | None) -> list[Trajectory]:
    """Four random completions by a vLLM of its own, after `publication` where there is one.

    One after the other: which requests share a batch is a matter of timing, and moves bfloat16's last bits.
    """
    with asyncio.Runner() as runner:
        sampler = make_sampler("vllm", model, dtype, _PACKED)
        if publication is not None:
            runner.run(sampler.load_weights(publication))
        samples = [
            sample
            for prompt in tiny.prompts([3, 6, 9, 12], seed=8)
            for sample in runner.run(sampler.sample([prompt], RANDOM))
        ]
        runner.run(sampler.close())
    return samples


@torch.no_grad()
def _log_probs(
    model: PreTrainedModel,
    prompt: np.ndarray,
    completion: np.ndarray,
    temperature: float,
    num_ids: int = tiny.VOCABULARY,
) -> np.ndarray:
    logits = plain_forwards.completion_logits(model, prompt, completion)[:, :num_ids] / temperature
    chosen = torch.from_numpy(completion.copy()).long()[:, None]
    return torch.log_softmax(logits, dim=-1).gather(1, chosen)[:, 0].numpy()


def _greedy(path: Path, prompts: list[Prompt]) -> list[list[int]]:
    model = plain_forwards.load(path)
    return [
        plain_forwards.greedy(model, prompt.token_ids, GREEDY.max_new_tokens, tiny.STOP, tiny.VOCABULARY)
        for prompt in prompts
    ]


@pytest.mark.vllm
def test_an_engine_argument_that_vllm_does_not_know_is_refused_by_its_key(tmp_path: Path) -> None:
    from gkd_dist.errors import ConfigError
    from gkd_dist.samplers.vllm_sampler import VllmSampler

    model = tiny.save_causal(tmp_path / "student")
    with pytest.raises(ConfigError, match=r"sampler\.engine_args\.gpu_memry"):
        VllmSampler(
            str(model), dtype="float32", max_model_len=64, num_ids=tiny.VOCABULARY, engine_args={"gpu_memry": 1}
        )


def test_prompts_that_do_not_fit_into_one_pass_are_answered_all_the_same(bench: Bench) -> None:
    """Seeded requests on vLLM: a pass takes 520 tokens here, and no prompt may be cut to fill it."""
    prompts = tiny.prompts([60] * 20)
    together = bench.sample(prompts, RANDOM)
    assert [item.sample_id for item in together] == [prompt.sample_id for prompt in prompts]
    assert all(item.num_completion_tokens >= 1 for item in together)


def test_requests_that_overlap_say_what_each_says_alone(bench: Bench) -> None:
    """Same ids, with noise of different seeds; log-probs to 1e-4: float32 in batches of other shapes."""
    prompts = tiny.prompts([60, 3, 17, 1, 9, 33])

    async def at_once() -> list[list[Trajectory]]:
        return await asyncio.gather(*(bench.sampler.sample([prompt], RANDOM) for prompt in prompts))

    together = [item for part in bench.runner.run(at_once()) for item in part]
    for prompt, item in zip(prompts, together, strict=True):
        (alone,) = bench.sample([prompt], RANDOM)
        assert item.sample_id == prompt.sample_id
        np.testing.assert_array_equal(item.completion_ids, alone.completion_ids)
        np.testing.assert_allclose(item.behaviour_log_probs, alone.behaviour_log_probs, atol=1e-4)
