"""Which reward a configuration asks for."""

from pathlib import Path
from typing import TYPE_CHECKING

from gkd_dist.build.environment import device_of
from gkd_dist.config.reward import RewardConfig
from gkd_dist.interfaces import Reward

if TYPE_CHECKING:
    from gkd_dist.build.blueprint import Blueprint

TIMEOUT_KEY = "cluster.request_timeout_s"
"""Of a run."""


def make_reward(blueprint: "Blueprint") -> Reward:
    """The reward of a run that has one."""
    config = blueprint.config
    if config.reward is None:
        raise ValueError("the configuration has no reward")
    device, timeout_s = device_of(config.cluster.num_gpus_reward), config.cluster.request_timeout_s
    return reward_of(config.reward, blueprint.reward_model, device=device, timeout_s=timeout_s, timeout_key=TIMEOUT_KEY)


def reward_of(
    reward: RewardConfig, model: Path | None, *, device: str, timeout_s: float, timeout_key: str | None = None
) -> Reward:
    """Any reward; validation has seen that its type has what it needs.

    Args:
        model: folder of the classifier, of `entailment`.
        device: of the classifier.
        timeout_s: of one call of a function.
        timeout_key: where that is configured, for messages; None: nowhere.
    """
    match reward.type:
        case "answer":
            from gkd_dist.rewards.answer import AnswerReward

            return AnswerReward(reward.match)
        case "python":
            from gkd_dist.rewards.function import FunctionReward

            return FunctionReward(reward.function, timeout_s=timeout_s, timeout_key=timeout_key)
        case "entailment":
            from gkd_dist.rewards.entailment import EntailmentReward

            return EntailmentReward(
                model, max_batch_size=reward.max_batch_size, max_length=reward.max_length, device=device
            )
