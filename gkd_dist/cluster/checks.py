"""Whether an answer is one to what was asked; what the codec cannot know."""

from collections.abc import Sequence

import numpy as np

from gkd_dist.errors import RejectedError
from gkd_dist.targets import TeacherTargets, TopKTargets
from gkd_dist.types import Prompt, SamplingParams, Source, Trajectory


def check_trajectories(
    name: str, trajectories: Sequence[Trajectory], prompts: Sequence[Prompt], params: SamplingParams, num_ids: int
) -> None:
    """
    Args:
        name: of the sampler, for messages.
        num_ids: ids that the tokenizer knows.

    Raises:
        RejectedError: these are not the student's answers to `prompts` under `params`.
    """
    if len(trajectories) != len(prompts):
        raise RejectedError(f"{name} gave {len(trajectories)} trajectories for {len(prompts)} prompts")
    for trajectory, prompt in zip(trajectories, prompts, strict=True):
        problem = _problem(trajectory, prompt, params, num_ids)
        if problem:
            raise RejectedError(f"{name} answered {prompt.sample_id} wrongly: {problem}")


def _problem(trajectory: Trajectory, prompt: Prompt, params: SamplingParams, num_ids: int) -> str | None:
    if trajectory.sample_id != prompt.sample_id:
        return f"it is the answer to {trajectory.sample_id}"
    if not np.array_equal(trajectory.prompt_ids, prompt.token_ids):
        return "it begins with another prompt"
    if trajectory.source is not Source.STUDENT:
        return f"its source is {trajectory.source.value}"
    if trajectory.num_completion_tokens > params.max_new_tokens:
        return f"{trajectory.num_completion_tokens} tokens where at most {params.max_new_tokens} were asked for"
    if trajectory.completion_ids.max() >= num_ids:
        return f"id {trajectory.completion_ids.max()} is outside the vocabulary of {num_ids}"
    return None


def check_lengths(name: str, num_tokens: Sequence[int], trajectories: Sequence[Trajectory]) -> None:
    """
    Args:
        name: of the teacher, for messages.
        num_tokens: that its targets cover.

    Raises:
        RejectedError: these are not targets of `trajectories`.
    """
    if len(num_tokens) != len(trajectories):
        raise RejectedError(f"{name} gave {len(num_tokens)} targets for {len(trajectories)} trajectories")
    for length, trajectory in zip(num_tokens, trajectories, strict=True):
        if length != trajectory.num_completion_tokens:
            raise RejectedError(
                f"{name} scored {length} tokens of {trajectory.sample_id}, which has {trajectory.num_completion_tokens}"
            )


def check_candidates(targets: Sequence[TeacherTargets], num_ids: int) -> None:
    """Raises:
    RejectedError: candidates that are no ids of the vocabulary.
    """
    for each in targets:
        if isinstance(each, TopKTargets) and each.token_ids.size and each.token_ids.max() >= num_ids:
            raise RejectedError(f"candidate {each.token_ids.max()} is outside the vocabulary of {num_ids}")
