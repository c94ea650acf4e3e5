"""Answers that do not fit the question are refused, with the reason."""

from dataclasses import replace

import numpy as np
import pytest

from gkd_dist.cluster.checks import check_candidates, check_lengths, check_trajectories
from gkd_dist.errors import RejectedError
from gkd_dist.targets import TopKTargets
from gkd_dist.types import FinishReason, Prompt, SamplingParams, Source, Trajectory, VersionRange
from tests import tiny

PROMPTS = tiny.prompts([2, 3])
PARAMS = SamplingParams(max_new_tokens=3)


def answer(prompt: Prompt) -> Trajectory:
    return Trajectory(
        prompt.sample_id,
        prompt.token_ids,
        np.asarray([5, 49], np.int32),
        Source.STUDENT,
        FinishReason.STOP,
        behaviour_log_probs=np.asarray([-0.5, -0.5], np.float32),
        versions=VersionRange(0, 0),
    )


GOOD = [answer(prompt) for prompt in PROMPTS]
LONG = replace(
    GOOD[0], completion_ids=np.asarray([1, 2, 3, 4], np.int32), behaviour_log_probs=np.full(4, -1, np.float32)
)
FIXED = replace(GOOD[0], source=Source.GROUND_TRUTH, behaviour_log_probs=None, versions=None)


def test_good_answers_pass() -> None:
    check_trajectories("sampler 0", GOOD, PROMPTS, PARAMS, num_ids=50)
    check_lengths("teacher 0", [2, 2], GOOD)


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    ("answers", "num_ids", "words"),
    [
        (GOOD[:1], 50, "gave 1 trajectories for 2 prompts"),
        (GOOD[::-1], 50, "answered test/0/0 wrongly: it is the answer to test/1/0"),
        ([replace(GOOD[0], prompt_ids=PROMPTS[1].token_ids), GOOD[1]], 50, "it begins with another prompt"),
        ([FIXED, GOOD[1]], 50, "its source is ground_truth"),
        ([LONG, GOOD[1]], 50, "4 tokens where at most 3 were asked for"),
        (GOOD, 49, "id 49 is outside the vocabulary of 49"),
    ],
)
def test_wrong_trajectories_are_refused(answers: list[Trajectory], num_ids: int, words: str) -> None:
    with pytest.raises(RejectedError, match=rf"^sampler 0 .*{words}"):
        check_trajectories("sampler 0", answers, PROMPTS, PARAMS, num_ids)


@pytest.mark.fault(9)
def test_targets_of_other_lengths_or_ids_are_refused() -> None:
    with pytest.raises(RejectedError, match="teacher 0 gave 1 targets for 2 trajectories"):
        check_lengths("teacher 0", [2], GOOD)
    with pytest.raises(RejectedError, match="teacher 0 scored 3 tokens of test/1/0, which has 2"):
        check_lengths("teacher 0", [2, 3], GOOD)
    targets = TopKTargets(np.asarray([[7, 50]], np.int32), np.asarray([[-1, -2]], np.float32))
    check_candidates([targets], 51)
    with pytest.raises(RejectedError, match="candidate 50 is outside the vocabulary of 50"):
        check_candidates([targets], 50)
