"""The sampling loop: by lambda, the student writes answers to prompts or fixed pairs take their place."""

from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.errors import DataError
from gkd_dist.pipeline.ring import Plan, Ring
from gkd_dist.types import Prompt, Trajectory


async def sampling_loop(ring: Ring) -> None:
    """For every step: wait until its weights are live, then hand on its trajectories.

    Step s uses the rows of the stream from `mixture.first_position(s)` to that of step s + 1: first the prompts that
    the student answers, `num_generations` times each, then those that bring their own completion.
    """
    plan = ring.plan
    for step in range(plan.max_steps):
        await ring.gate.wait_for(step - plan.max_staleness)
        first = plan.mixture.first_position(step)
        fixed_from = first + plan.mixture.num_prompts(step)
        repeats = range(plan.mixture.num_generations)
        prompts = [plan.stream.prompt(index, repeat) for index in range(first, fixed_from) for repeat in repeats]
        fixed = [_pair(plan, index) for index in range(fixed_from, plan.mixture.first_position(step + 1))]
        sampled = await _sample(ring, step, prompts) if prompts else []
        await ring.trajectories.put((step, [*sampled, *fixed]))


async def _sample(ring: Ring, step: int, prompts: list[Prompt]) -> list[Trajectory]:
    with ring.accounts.timed(step, "sample"):
        trajectories = await ring.fleet.samplers.spread(
            prompts, lambda sampler, share: sampler.sample(share, ring.plan.sampling)
        )
    ring.accounts.sampled(step, trajectories)
    return trajectories


def _pair(plan: Plan, index: int) -> Trajectory:
    """The fixed pair at stream position `index`."""
    prompt = plan.stream.prompt(index)
    completion_ids = plan.stream.row(index).completion_ids
    if completion_ids is None:
        raise DataError("the mixture asks for a fixed pair, but the data has no completions")
    return fixed_trajectory(prompt.sample_id, prompt.token_ids, completion_ids, plan.sampling.max_new_tokens)
