"""What a teacher itself would answer, found by scoring alone: every engine can score, not every one can generate.

A guess is scored whole; the most probable token at each position is what greedy decoding writes there, as long as all
tokens before it are right. So each round confirms at least one token, and as many as the guess had right (speculative
decoding, arXiv 2211.17192, with the teacher's own last answers as the next guess).
"""

from collections.abc import Container, Sequence
from functools import partial

import numpy as np

from gkd_dist.divergences import Readout
from gkd_dist.serial import SerialThread
from gkd_dist.targets import SampledTargets
from gkd_dist.teachers.golden import Score, top_answers
from gkd_dist.types import FinishReason, IntArray, Source, Trajectory

_AHEAD = 16
"""Tokens guessed beyond what is confirmed: more are seldom right, and cost as much to score."""


async def complete(
    score: Score,
    drafts: Sequence[Trajectory],
    readout: Readout | None,
    *,
    max_new_tokens: int,
    stop_token_ids: Container[int],
) -> list[list[int]]:
    """Greedy completions of the drafts' prompts, in order; empty where the targets do not tell the likeliest token.

    Args:
        drafts: first guesses; close ones save rounds.
        readout: needed for hidden states alone.
        max_new_tokens: completions are cut there; at most so many rounds are asked.
    """
    thread = SerialThread("guesses")
    guesses = [_Guess(each, max_new_tokens, stop_token_ids) for each in drafts]
    while open_guesses := [guess for guess in guesses if not guess.is_done]:
        sequences = [guess.trajectory() for guess in open_guesses]
        targets = await score(sequences)
        if any(isinstance(each, SampledTargets) for each in targets):
            return [[] for _ in drafts]
        for guess, sequence, each in zip(open_guesses, sequences, targets, strict=True):
            top = await thread.run(partial(top_answers, [sequence], [each], readout))
            guess.take(top.token_ids[:, 0])
    return [guess.confirmed for guess in guesses]


class _Guess:
    """One completion on its way."""

    def __init__(self, draft: Trajectory, max_new_tokens: int, stop_token_ids: Container[int]) -> None:
        self._draft = draft
        self._most = max_new_tokens
        self._stops = stop_token_ids
        self.confirmed: list[int] = []
        self._guessed = draft.completion_ids.tolist()
        """Behind what is confirmed."""
        self._num_asked = 0
        """Guesses that are being scored."""
        self.is_done = max_new_tokens < 1

    def trajectory(self) -> Trajectory:
        """What is confirmed, and some guesses behind it."""
        length = min(self._most, len(self.confirmed) + _AHEAD)
        self._num_asked = length - len(self.confirmed)
        self._guessed += self._guessed[-1:] * (self._num_asked - len(self._guessed))
        tokens = [*self.confirmed, *self._guessed[: self._num_asked]]
        return Trajectory(
            sample_id=self._draft.sample_id,
            prompt_ids=self._draft.prompt_ids,
            completion_ids=np.asarray(tokens, np.int32),
            source=Source.STUDENT,
            finish_reason=FinishReason.LENGTH,
            behaviour_log_probs=np.zeros(length, np.float32),
            versions=self._draft.versions,
        )

    def take(self, likeliest: IntArray) -> None:
        """Confirm what the guess had right, and the first token that it had not."""
        answers = likeliest[len(self.confirmed) :].tolist()
        asked, beyond = self._guessed[: self._num_asked], self._guessed[self._num_asked :]
        num_right = 0
        for guessed, answer in zip(asked, answers, strict=True):
            num_right += 1
            self.confirmed.append(answer)
            if answer in self._stops or len(self.confirmed) >= self._most:
                self.is_done = True
                return
            if guessed != answer:
                break
        self._guessed = [*answers[num_right:], *beyond] or answers[-1:]
