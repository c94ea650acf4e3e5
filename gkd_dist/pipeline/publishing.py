"""The publishing loop: new weights reach every sampler, then the gate opens."""

from operator import methodcaller

from gkd_dist.pipeline.ring import Ring


async def publishing_loop(ring: Ring) -> None:
    """Publish after every step; a version counts as live only when every sampler holds it."""
    fleet = ring.fleet
    for _ in range(ring.plan.max_steps):
        report = await ring.reports.get()
        with ring.accounts.timed(report.step, "publish"):
            publication = await fleet.learner.publish()
            await fleet.samplers.bring_up(methodcaller("load_weights", publication))
        ring.accounts.published(report.step, publication.manifest)
        await ring.gate.open(publication.manifest.version)
