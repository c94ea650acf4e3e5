"""What several learner ranks need of the other sections."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gkd_dist.config.run import RunConfig


def rank_problems(config: "RunConfig") -> list[str]:
    """What is wrong, one line each."""
    num_ranks = config.learner.num_ranks
    if num_ranks == 1:
        return []
    problems = []
    if config.cluster.mode != "ray":
        problems.append(
            f"learner.num_ranks: {num_ranks} ranks are processes of their own, which cluster.mode="
            f"{config.cluster.mode} has not; set cluster.mode=ray, or num_ranks=1"
        )
    if config.learner.optimizer == "adafactor":
        problems.append(
            f"learner.optimizer: adafactor needs whole parameters, each of {num_ranks} ranks holds a part; set "
            "optimizer=adamw, or num_ranks=1"
        )
    if config.student.lora is not None:
        problems.append(
            f"student.lora: adapters are trained by a single learner, not by {num_ranks} ranks; remove it, or set "
            "learner.num_ranks=1"
        )
    return problems
