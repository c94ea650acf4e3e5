"""Whether a reward can be computed (floor F5)."""

from collections.abc import Sequence

from gkd_dist.config.reward import RewardConfig
from gkd_dist.data.rows import Rows
from gkd_dist.types import Answer

NUM_TRIED = 2
"""Rows that a reward function is tried with."""


def check_reward(reward: RewardConfig | None, rows: Rows | None) -> None:
    """Whether the reward can be computed, as far as that needs no model."""
    if reward is None:
        return
    if reward.type == "answer" and rows is not None:
        from gkd_dist.rewards.answer import check_references

        check_references(rows.rows, rows.source, reward.match)
    if reward.function is not None:
        from gkd_dist.rewards.function import load_function

        load_function(reward.function)


def try_function(
    reward: RewardConfig | None,
    rows: Sequence[tuple[str, str | None]],
    *,
    timeout_s: float,
    timeout_key: str | None = None,
) -> None:
    """A reward function of the user's own is called once: it is the part that was never run before.

    Args:
        rows: prompt and reference of some.
        timeout_key: where `timeout_s` is configured, for messages; None: nowhere.
    """
    if reward is None or reward.function is None:
        return
    from gkd_dist.rewards.function import check_function

    answers = [Answer(prompt, reference or "", reference) for prompt, reference in rows]
    check_function(reward.function, answers, timeout_s=timeout_s, timeout_key=timeout_key)
