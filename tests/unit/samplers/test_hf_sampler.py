"""What is particular to the transformers sampler: encoder-decoder models, foreign weights."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from gkd_dist.errors import WeightsError
from gkd_dist.samplers.hf_sampler import HfSampler
from gkd_dist.types import SamplingParams, Trajectory, VersionRange
from gkd_dist.weights.publisher import WeightPublisher
from tests import tiny


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_t5(tmp_path_factory.mktemp("t5"))


@torch.no_grad()
def decoder_log_probs(path: Path, prompt: np.ndarray, completion: np.ndarray) -> np.ndarray:
    """Log-probs of the completion, decoder inputs shifted right behind the decoder's start token."""
    model = AutoModelForSeq2SeqLM.from_pretrained(path)
    ids = torch.from_numpy(completion).long()
    decoder_input_ids = torch.cat([torch.tensor([tiny.PAD]), ids[:-1]])[None]
    logits = model(input_ids=torch.from_numpy(prompt).long()[None], decoder_input_ids=decoder_input_ids).logits[0]
    return torch.log_softmax(logits, dim=-1).gather(1, ids[:, None])[:, 0].numpy()


@torch.no_grad()
def causal_log_probs(path: Path, prompt: np.ndarray, completion: np.ndarray) -> np.ndarray:
    ids = torch.from_numpy(np.concatenate([prompt, completion])).long()
    logits = AutoModelForCausalLM.from_pretrained(path)(ids[None]).logits[0, prompt.size - 1 : -1]
    return torch.log_softmax(logits, dim=-1).gather(1, ids[prompt.size :, None])[:, 0].numpy()


def test_an_encoder_decoder_student_samples_with_its_own_log_probs(t5: Path) -> None:
    sampler = HfSampler(t5, dtype="float32", pad_token_id=tiny.PAD, num_ids=None)
    params = SamplingParams(max_new_tokens=9, stop_token_ids=(tiny.STOP,), seed=4)
    prompts = tiny.prompts([6, 2, 9])
    for prompt, item in zip(prompts, asyncio.run(sampler.sample(prompts, params)), strict=True):
        np.testing.assert_array_equal(item.prompt_ids, prompt.token_ids)
        expected = decoder_log_probs(t5, prompt.token_ids, item.completion_ids)
        np.testing.assert_allclose(item.behaviour_log_probs, expected, atol=1e-4)


def test_ids_are_put_into_what_the_decoder_writes_without_a_restart(t5: Path) -> None:
    """Id 7 comes third; what stands around it is drawn from the decoder that reads all of it."""
    sampler = HfSampler(
        t5, dtype="float32", pad_token_id=tiny.PAD, num_ids=None, next_id=lambda ids: 7 if len(ids) == 2 else None
    )
    params = SamplingParams(max_new_tokens=9, seed=4)
    prompts = tiny.prompts([6, 2, 9])
    free = HfSampler(t5, dtype="float32", pad_token_id=tiny.PAD, num_ids=None)
    unforced = asyncio.run(free.sample(prompts, params))
    for prompt, item, other in zip(prompts, asyncio.run(sampler.sample(prompts, params)), unforced, strict=True):
        ids = item.completion_ids
        assert ids[:3].tolist() == [*other.completion_ids[:2], 7]
        expected = decoder_log_probs(t5, prompt.token_ids, ids)
        expected[2] = 0
        np.testing.assert_allclose(item.behaviour_log_probs, expected, atol=1e-4)


def test_no_prompts_no_trajectories(t5: Path) -> None:
    sampler = HfSampler(t5, dtype="float32", pad_token_id=tiny.PAD, num_ids=None)
    assert asyncio.run(sampler.sample([], SamplingParams(max_new_tokens=3))) == []


def test_weights_of_another_model_are_refused_by_name(t5: Path, tmp_path: Path) -> None:
    causal = AutoModelForCausalLM.from_pretrained(tiny.save_causal(tmp_path / "causal"))
    publication = WeightPublisher("e", 1 << 16, "float32").publish(list(causal.named_parameters()), 1)
    sampler = HfSampler(t5, dtype="float32", pad_token_id=tiny.PAD, num_ids=None)
    with pytest.raises(WeightsError, match=r"missing.*unknown"):
        asyncio.run(sampler.load_weights(publication))


def test_weights_of_another_width_are_refused_before_the_first_copy(tmp_path: Path) -> None:
    """One row would be broadcast over the matrix by a copy, and everything before it would be new."""
    path = tiny.save_causal(tmp_path / "own", seed=1)
    named = [(name, tensor + 1) for name, tensor in AutoModelForCausalLM.from_pretrained(path).named_parameters()]
    named[-1] = (named[-1][0], named[-1][1][:1])
    sampler = HfSampler(path, dtype="float32", pad_token_id=tiny.PAD, num_ids=None)
    params = SamplingParams(max_new_tokens=6, temperature=0)
    before = asyncio.run(sampler.sample(tiny.prompts([4]), params))
    with pytest.raises(WeightsError, match=rf"other shapes.*{named[-1][0]}"):
        asyncio.run(sampler.load_weights(WeightPublisher("e", 1 << 16, "float32").publish(named, 1)))
    after = asyncio.run(sampler.sample(tiny.prompts([4]), params))
    np.testing.assert_array_equal(before[0].behaviour_log_probs, after[0].behaviour_log_probs)


def test_a_poisoned_generation_config_leaves_an_encoder_decoder_alone(tmp_path: Path) -> None:
    path = tiny.save_t5(tmp_path)
    params = SamplingParams(max_new_tokens=9, seed=4)
    clean, poisoned = [], []
    for results in (clean, poisoned):
        sampler = HfSampler(path, dtype="float32", pad_token_id=tiny.PAD, num_ids=None)
        results += [item.completion_ids.tolist() for item in asyncio.run(sampler.sample(tiny.prompts([6, 2]), params))]
        tiny.poison_generation_config(path)
    assert clean == poisoned
    assert all(len(ids) == 9 for ids in poisoned)


@pytest.mark.parametrize("cancelled", [False, True])
def test_versions_are_those_of_the_weights_that_wrote_whatever_is_called_meanwhile(
    cancelled: bool, tmp_path: Path
) -> None:
    """Three batches and an update between them, all asked for at once; the update may be given up by its caller.

    Within 1e-3 nats: left padding and cached keys sum in another order; the other weights are nats away.
    """
    folders = [tiny.save_causal(tmp_path / name, seed=seed) for seed, name in enumerate(("old", "new"))]
    named = list(AutoModelForCausalLM.from_pretrained(folders[1]).named_parameters())
    publication = WeightPublisher("e", 1 << 16, "float32").publish(named, 1)
    params = SamplingParams(max_new_tokens=40, seed=4)

    async def interleaved() -> list[Trajectory]:
        sampler = HfSampler(folders[0], dtype="float32", pad_token_id=tiny.PAD, num_ids=None)
        first = asyncio.create_task(sampler.sample(tiny.prompts([4, 9]), params))
        update = asyncio.create_task(sampler.load_weights(publication))
        others = [asyncio.create_task(sampler.sample(tiny.prompts([length]), params)) for length in (5, 6)]
        await asyncio.sleep(0)
        if cancelled:
            update.cancel()
        results = await asyncio.gather(first, *others)
        await sampler.close()
        return [item for batch in results for item in batch]

    found = asyncio.run(interleaved())
    versions = [item.versions for item in found]
    assert versions == [VersionRange(0, 0)] * 2 + [VersionRange(0, 0) if cancelled else VersionRange(1, 1)] * 2
    for item in found:
        expected = causal_log_probs(folders[item.versions.oldest], item.prompt_ids, item.completion_ids)
        np.testing.assert_allclose(item.behaviour_log_probs, expected, atol=1e-3)
