"""Whether a reward can be computed (floor F5)."""

from gkd_dist.config.run import RunConfig
from gkd_dist.data.prompts import RenderedPrompts
from gkd_dist.data.rows import Rows
from gkd_dist.types import Answer


def check_reward(config: RunConfig, rows: Rows | None) -> None:
    """Whether the reward can be computed, as far as that needs no model."""
    if config.reward is None:
        return
    if config.reward.type == "answer" and rows is not None:
        from gkd_dist.rewards.answer import check_references

        check_references(rows.rows, rows.source, config.reward.match)
    if config.reward.function is not None:
        from gkd_dist.rewards.function import load_function

        load_function(config.reward.function)


def try_function(config: RunConfig, rendered: RenderedPrompts) -> None:
    """A reward function of the user's own is called once: it is the part of a run that was never run before."""
    if config.reward is None or config.reward.function is None:
        return
    from gkd_dist.rewards.function import check_function

    answers = [Answer(row.text, row.reference or "", row.reference) for row in rendered.train[:2]]
    check_function(config.reward.function, answers, timeout_s=config.cluster.request_timeout_s)
