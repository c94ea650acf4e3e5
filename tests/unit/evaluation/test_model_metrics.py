"""Log-likelihoods of options and divergences of two models, against plain transformers and float64."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from gkd_dist.evaluation.distances import distances
from gkd_dist.evaluation.multiple_choice import option_log_probs
from gkd_dist.teachers.hf_teacher import HfTeacher
from gkd_dist.types import IntArray
from tests.tiny import PAD, VOCABULARY, prompts, save_causal, trajectories


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    path = tmp_path_factory.mktemp("models")
    return save_causal(path / "student", seed=1), save_causal(path / "teacher", seed=2)


def scorer(folder: Path, transport: str) -> HfTeacher:
    return HfTeacher(folder, dtype="float32", transport=transport, pad_token_id=PAD, num_ids=VOCABULARY)  # type: ignore[arg-type]


@torch.no_grad()
def plain_log_probs(folder: Path, prompt: IntArray, completion: IntArray) -> torch.Tensor:
    """[L, V] float64, one forward of one sequence without padding."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    ids = torch.from_numpy(np.concatenate([prompt, completion]).astype(np.int64))
    logits = model(input_ids=ids[None]).logits[0, prompt.size - 1 : -1]
    return torch.log_softmax(logits, dim=-1)


@pytest.mark.parametrize("transport", ["full", "sampled"])
@pytest.mark.parametrize("lengths", [(1, 1, 1, 1), (1, 3, 2)])
def test_options_have_their_log_likelihood(
    folders: tuple[Path, Path], transport: str, lengths: tuple[int, ...]
) -> None:
    asked = prompts([6, 3, 9])
    rng = np.random.default_rng(1)
    options = [[rng.integers(3, VOCABULARY, length, dtype=np.int32) for length in lengths] for _ in asked]
    seen: list[int] = []
    with_transport = scorer(folders[0], transport)
    found = asyncio.run(option_log_probs(with_transport, asked, options, batch_size=2, progress=seen.append))
    assert seen == [2, 1]
    for prompt, own, row in zip(asked, options, found, strict=True):
        for ids, log_prob in zip(own, row, strict=True):
            table = plain_log_probs(folders[0], prompt.token_ids, ids)
            wanted = sum(float(table[place, number]) for place, number in enumerate(ids))
            assert log_prob == pytest.approx(wanted, abs=1e-4)


def test_distances_are_those_of_dense_float64(folders: tuple[Path, Path]) -> None:
    """The last sequence is longer than what is compared at once."""
    given = trajectories([(4, 3), (2, 1), (5, 70)], seed=4)
    student, teacher = (scorer(folder, "full") for folder in folders)
    found = asyncio.run(distances(student, teacher, given, lambda _: None))
    for trajectory, distance in zip(given, found, strict=True):
        q, p = (plain_log_probs(folder, trajectory.prompt_ids, trajectory.completion_ids) for folder in folders)
        m = (0.5 * p.exp() + 0.5 * q.exp()).log()
        forward = float((p.exp() * (p - q)).sum())
        reverse = float((q.exp() * (q - p)).sum())
        both = 0.5 * float((p.exp() * (p - m)).sum()) + 0.5 * float((q.exp() * (q - m)).sum())
        assert distance.num_tokens == trajectory.num_completion_tokens
        assert [distance.forward_kl, distance.reverse_kl, distance.jsd] == pytest.approx(
            [forward, reverse, both], rel=1e-4
        )


def test_a_model_has_no_distance_from_itself(folders: tuple[Path, Path]) -> None:
    one = scorer(folders[0], "full")
    (distance,) = asyncio.run(distances(one, one, trajectories([(4, 6)]), lambda _: None))
    assert [distance.forward_kl, distance.reverse_kl, distance.jsd] == pytest.approx([0, 0, 0], abs=1e-5)
