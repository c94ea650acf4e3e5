"""Which reward a configuration asks for."""

from typing import TYPE_CHECKING

from gkd_dist.build.environment import device_of
from gkd_dist.interfaces import Reward

if TYPE_CHECKING:
    from gkd_dist.build.blueprint import Blueprint


def make_reward(blueprint: "Blueprint") -> Reward:
    """The reward of a configuration that has one; validation has seen that its type has what it needs."""
    reward, cluster = blueprint.config.reward, blueprint.config.cluster
    if reward is None:
        raise ValueError("the configuration has no reward")
    match reward.type:
        case "answer":
            from gkd_dist.rewards.answer import AnswerReward

            return AnswerReward(reward.match)
        case "python":
            from gkd_dist.rewards.function import FunctionReward

            return FunctionReward(reward.function, timeout_s=cluster.request_timeout_s)
        case "entailment":
            from gkd_dist.rewards.entailment import EntailmentReward

            return EntailmentReward(
                blueprint.reward_model,
                max_batch_size=reward.max_batch_size,
                max_length=reward.max_length,
                device=device_of(cluster.num_gpus_reward),
            )
