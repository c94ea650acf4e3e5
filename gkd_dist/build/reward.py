"""Which reward a configuration asks for."""

from typing import TYPE_CHECKING

from gkd_dist.build.environment import device_of
from gkd_dist.interfaces import Reward

if TYPE_CHECKING:
    from gkd_dist.build.blueprint import Blueprint


def make_reward(blueprint: "Blueprint") -> Reward:
    """Only where the configuration has a reward."""
    reward, cluster = blueprint.config.reward, blueprint.config.cluster
    assert reward is not None
    match reward.type:
        case "answer":
            from gkd_dist.rewards.answer import AnswerReward

            return AnswerReward(reward.match)
        case "python":
            from gkd_dist.rewards.function import FunctionReward

            assert reward.function is not None
            return FunctionReward(reward.function, timeout_s=cluster.request_timeout_s)
        case "entailment":
            from gkd_dist.rewards.entailment import EntailmentReward

            assert blueprint.reward_model is not None
            return EntailmentReward(
                blueprint.reward_model,
                max_batch_size=reward.max_batch_size,
                max_length=reward.max_length,
                device=device_of(cluster.num_gpus_reward),
            )
