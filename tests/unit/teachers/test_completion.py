"""A teacher's own answers, found by scoring: those of transformers' greedy search, from whatever draft."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from gkd_dist.targets import TargetsHandle, TeacherTargets
from gkd_dist.teachers.completion import complete
from gkd_dist.teachers.hf_teacher import HfTeacher
from gkd_dist.teachers.readout import load_readout
from gkd_dist.types import FinishReason, SampleId, Source, Trajectory, VersionRange
from tests import tiny

PROMPTS = ([5, 9, 31], [77, 12, 8, 60, 44, 3], [100])
MOST = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("teacher"), seed=3)


@pytest.fixture(scope="module")
def greedy(model: Path) -> list[list[int]]:
    """The reference, without a stop token."""
    causal = AutoModelForCausalLM.from_pretrained(model).eval()
    return [
        causal.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=MOST, eos_token_id=None, pad_token_id=tiny.PAD
        )[0, len(prompt) :].tolist()
        for prompt in PROMPTS
    ]


def drafts(completions: Sequence[Sequence[int]]) -> list[Trajectory]:
    return [
        Trajectory(
            sample_id=SampleId("test", index),
            prompt_ids=np.asarray(prompt, np.int32),
            completion_ids=np.asarray(completion, np.int32),
            source=Source.STUDENT,
            finish_reason=FinishReason.LENGTH,
            behaviour_log_probs=np.zeros(len(completion), np.float32),
            versions=VersionRange(4, 4),
        )
        for index, (prompt, completion) in enumerate(zip(PROMPTS, completions, strict=True))
    ]


class Counted:
    """An engine, and how often it was asked."""

    def __init__(self, model: Path, transport: str) -> None:
        self._engine = HfTeacher(model, dtype="float32", transport=transport, pad_token_id=tiny.PAD, top_k=4)
        self._readout = load_readout(model, dtype="float32") if transport == "hidden" else None
        self.num_asked = 0

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
        self.num_asked += 1
        return await self._engine.score(trajectories)

    def complete(self, guesses: Sequence[Trajectory], stops: Sequence[int] = (), most: int = MOST) -> list[list[int]]:
        work = complete(self.score, guesses, self._readout, max_new_tokens=most, stop_token_ids=frozenset(stops))
        return asyncio.run(work)


@pytest.mark.parametrize("transport", ["hidden", "full", "topk"])
def test_it_is_greedy_search_from_a_draft_that_is_wrong_everywhere(
    model: Path, greedy: list[list[int]], transport: str
) -> None:
    engine = Counted(model, transport)
    wrong = [[(token + 1) % tiny.VOCABULARY for token in tokens[:5]] for tokens in greedy]
    assert engine.complete(drafts(wrong)) == greedy
    assert engine.num_asked <= MOST


def test_a_right_draft_is_confirmed_in_few_rounds(model: Path, greedy: list[list[int]]) -> None:
    engine = Counted(model, "full")
    assert engine.complete(drafts(greedy)) == greedy
    assert engine.num_asked == 2  # 16 tokens, then 8


def test_a_stop_token_ends_it_and_is_part_of_it(model: Path, greedy: list[list[int]]) -> None:
    stop = greedy[0][6]
    expected = [tokens[: tokens.index(stop) + 1] if stop in tokens else tokens for tokens in greedy]
    assert len(expected[0]) < MOST
    assert Counted(model, "full").complete(drafts(greedy), [stop]) == expected


def test_it_is_cut_at_the_limit(model: Path, greedy: list[list[int]]) -> None:
    assert Counted(model, "full").complete(drafts(greedy), most=3) == [tokens[:3] for tokens in greedy]
    assert Counted(model, "full").complete(drafts(greedy), most=0) == [[], [], []]


def test_the_log_probs_of_single_tokens_tell_of_no_answer(model: Path, greedy: list[list[int]]) -> None:
    engine = Counted(model, "sampled")
    assert engine.complete(drafts(greedy)) == [[], [], []]
    assert engine.num_asked == 1
