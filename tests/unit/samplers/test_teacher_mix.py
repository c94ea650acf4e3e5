"""Sampling from a mixture of two models: the distribution, its log-probs, and what does without it."""

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gkd_dist.errors import EngineError, ModelError
from gkd_dist.samplers.hf_sampler import HfSampler
from gkd_dist.types import Prompt, SampleId, SamplingParams
from tests import plain_forwards, tiny

ALPHA = 0.3


@pytest.fixture(scope="module", params=["causal", "encoder-decoder"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def student(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    save = tiny.save_causal if family == "causal" else tiny.save_t5
    return save(tmp_path_factory.mktemp("student"), seed=1, vocab_size=tiny.VOCABULARY + 32)


@pytest.fixture(scope="module")
def teacher(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Different from the student, and padded to another number of rows."""
    path = tmp_path_factory.mktemp("teacher")
    if family == "causal":
        return tiny.save_causal(path, seed=2, num_layers=3, vocab_size=tiny.VOCABULARY + 8)
    return tiny.save_t5(path, seed=2, tie_word_embeddings=False, vocab_size=tiny.VOCABULARY + 8)


def make_sampler(student: Path, teacher: Path | None) -> HfSampler:
    return HfSampler(student, dtype="float32", pad_token_id=tiny.PAD, num_ids=tiny.VOCABULARY, teacher=teacher)


@torch.no_grad()
def next_probs(path: Path, prompt: np.ndarray, completion: np.ndarray) -> torch.Tensor:
    """[L, V] softmax over the real ids at the positions that predict the completion."""
    logits = plain_forwards.completion_logits(plain_forwards.load(path), prompt, completion)
    return torch.softmax(logits[:, : tiny.VOCABULARY], dim=-1)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_behaviour_log_probs_are_those_of_the_mixture(student: Path, teacher: Path, temperature: float) -> None:
    """Prompts of different lengths, and completions that end early: padding and the teacher's cache change nothing."""
    sampler = make_sampler(student, teacher)
    params = SamplingParams(12, temperature, stop_token_ids=tuple(range(3, 12)), seed=7, teacher_mix=ALPHA)
    prompts = tiny.prompts([7, 2, 4, 9, 1] * 4)
    trajectories = asyncio.run(sampler.sample(prompts, params))
    assert len({item.num_completion_tokens for item in trajectories}) > 1
    for item in trajectories:
        q, p = (next_probs(path, item.prompt_ids, item.completion_ids) for path in (student, teacher))
        mixture = torch.log(ALPHA * p + (1 - ALPHA) * q)
        expected = torch.log_softmax(mixture / temperature, dim=-1)
        chosen = expected[range(item.num_completion_tokens), item.completion_ids]
        np.testing.assert_allclose(item.behaviour_log_probs, chosen, atol=1e-4)


def test_tokens_are_drawn_from_the_mixture(student: Path, teacher: Path) -> None:
    """The first token of 3000 samples of one prompt: every id's frequency within 6 standard errors."""
    number = 3000
    prompt = tiny.prompts([5])[0]
    prompts = [Prompt(SampleId("test", 0, repeat), prompt.token_ids) for repeat in range(number)]
    params = SamplingParams(1, seed=3, teacher_mix=ALPHA)
    drawn = asyncio.run(make_sampler(student, teacher).sample(prompts, params))
    counts = np.bincount([int(item.completion_ids[0]) for item in drawn], minlength=tiny.VOCABULARY)
    first = np.array([0])
    q, p = (next_probs(path, prompt.token_ids, first)[0].double().numpy() for path in (student, teacher))
    chance = ALPHA * p + (1 - ALPHA) * q
    assert 0.5 * np.abs(p - q).sum() > 0.3
    # One count at least, where an id of a tiny chance comes up once.
    assert (np.abs(counts - number * chance) <= np.maximum(6 * np.sqrt(number * chance), 1)).all()


def test_without_a_mix_the_teacher_plays_no_part(student: Path, teacher: Path) -> None:
    params = SamplingParams(8, seed=3)
    found = [
        [
            item.completion_ids.tolist()
            for item in asyncio.run(make_sampler(student, other).sample(tiny.prompts([3, 6]), params))
        ]
        for other in (teacher, None)
    ]
    assert found[0] == found[1]


def test_a_mix_without_a_teacher_is_refused(student: Path) -> None:
    with pytest.raises(EngineError, match="without a teacher"):
        asyncio.run(make_sampler(student, None).sample(tiny.prompts([3]), SamplingParams(2, teacher_mix=ALPHA)))


def test_a_teacher_of_another_family_is_refused(tmp_path: Path) -> None:
    causal, t5 = tiny.save_causal(tmp_path / "causal"), tiny.save_t5(tmp_path / "t5")
    for one, other in ((causal, t5), (t5, causal)):
        with pytest.raises(ModelError, match="teacher_mix=0"):
            make_sampler(one, other)


@pytest.mark.parametrize("weight", [-0.1, 1.0, math.nan])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="teacher_mix"):
        SamplingParams(2, teacher_mix=weight)
