"""The publishing loop: new weights reach every sampler, then the intake may go on."""

from operator import methodcaller

from gkd_dist.fault_points import fault_point
from gkd_dist.pipeline.ring import Ring


async def publishing_loop(ring: Ring) -> None:
    """Publish after every step that somebody samples with; a version counts as live only when every sampler that serves
    holds it."""
    version = ring.progress.step
    while version < ring.plan.max_steps:
        report, publication = await ring.published.get()
        if publication is not None:
            with ring.accounts.timed("publish"):
                await ring.fleet.samplers.bring_up(methodcaller("load_weights", publication))
        fault_point("publishing.live")
        version = report.policy_version
        ring.accounts.published(report.step, None if publication is None else publication.manifest)
        ring.intake.live(version)
