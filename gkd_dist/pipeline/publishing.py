"""The publishing loop: new weights reach every sampler, then the intake may go on."""

from gkd_dist.fault_points import fault_point
from gkd_dist.interfaces import Sampler
from gkd_dist.pipeline.ring import Ring
from gkd_dist.types import WeightPublication


async def publishing_loop(ring: Ring) -> None:
    """Publish after every step that somebody may sample with (`Plan.asks_for`); such a version counts as live only when
    every sampler that serves holds it. Of another one samplers know nothing: none is asked until a newer one is live.
    """
    version = ring.progress.step
    while version < ring.plan.max_steps:
        report, publication = await ring.published.get()
        if publication is not None:
            with ring.accounts.timed("publish"), ring.accounts.timed("load"):
                await _load(ring, publication)
        fault_point("publishing.live")
        version = report.policy_version
        ring.accounts.published(report.step, None if publication is None else publication.manifest)
        ring.intake.live(version)


async def _load(ring: Ring, publication: WeightPublication) -> None:
    async def load(sampler: Sampler) -> int:
        with ring.accounts.asked("load", sampler):
            return await sampler.load_weights(publication)

    await ring.fleet.samplers.bring_up(load)
