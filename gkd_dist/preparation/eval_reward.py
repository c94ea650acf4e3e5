"""The reward of an evaluation: all that can be checked before a model loads (floor F5)."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gkd_dist.build.reward import reward_of
from gkd_dist.config.evaluation import EvalConfig
from gkd_dist.config.reward import RewardConfig
from gkd_dist.data.rows import Row, Rows
from gkd_dist.errors import ConfigError, DataError
from gkd_dist.interfaces import Reward
from gkd_dist.preparation.reward import NUM_TRIED, check_reward, try_function

TIMEOUT_S = 600.0
"""Of one call of a reward function, with few answers at a time; no key changes it."""

Asked = Sequence[tuple[str, str | None]]
"""Prompt and first reference of each row."""
MakeReward = Callable[[], Reward]


def check_rows(reward: RewardConfig | None, asked: Asked, source: str) -> None:
    """The first stage: what needs no model.

    Args:
        source: what to call the data.

    Raises:
        ConfigError, DataError: rows that it cannot judge, or no such function.
    """
    rows = tuple(Row(prompt, reference) for prompt, reference in asked)
    try:
        check_reward(reward, Rows(rows, "prompt+completion", source))
    except DataError as error:
        raise DataError(str(error).replace("data.fields", "fields.reference")) from error


def fit_reward(config: EvalConfig, model: Path | None, asked: Asked) -> MakeReward | None:
    """The last stage: a classifier's labels and tokenizer, and a function called once. None where there is no reward.

    Args:
        model: folder of the classifier, of `entailment`.

    Raises:
        ConfigError: it cannot be used.
    """
    if config.reward is None:
        return None
    if model is not None:
        from gkd_dist.rewards.entailment import check_classifier

        check_classifier(model)
    try_function(config.reward, asked[:NUM_TRIED], timeout_s=TIMEOUT_S)
    return partial(reward_of, config.reward, model, device=config.device, timeout_s=TIMEOUT_S)


def prepare_reward(config: EvalConfig, asked: Asked, source: str) -> MakeReward | None:
    """Both stages, where nothing else has to be prepared."""
    from gkd_dist.models.packaged import default_cache_dir, materialise

    if config.reward is None:
        return None
    check_rows(config.reward, asked, source)
    try:
        folder = None if config.reward.model is None else materialise(config.reward.model, default_cache_dir())
    except ConfigError as error:
        raise ConfigError([f"reward.model: {problem}" for problem in error.problems]) from error
    return fit_reward(config, folder, asked)
