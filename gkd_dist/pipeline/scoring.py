"""The scoring loop: teachers say what they think of every completion token, before replay."""

from gkd_dist.pipeline.ring import Ring
from gkd_dist.pipeline.routing import spread


async def scoring_loop(ring: Ring) -> None:
    """Score every group of trajectories and admit the result to the replay."""
    for _ in range(ring.plan.max_steps):
        step, trajectories = await ring.trajectories.get()
        with ring.accounts.timed(step, "score"):
            scored = await spread(ring.fleet.teachers, trajectories, lambda teacher, share: teacher.score(share))
        ring.accounts.scored(step, trajectories)
        for item in scored:
            await ring.replay.admit(item, ring.gate.version)
