"""Where the numbers of a run go, and the last of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gkd_dist.config.run import RunConfig
from gkd_dist.errors import StoppedEarlyError, StoppedError
from gkd_dist.interfaces import Metrics
from gkd_dist.metrics.console import Narrator
from gkd_dist.metrics.discovery import server_targets
from gkd_dist.metrics.exporter import Exporter
from gkd_dist.metrics.scrapes import Scrapes
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.reporting import teacher_name
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.stop_signals import noticing_signals

LAST_SCRAPE_S = 20.0
"""Longer than the intervals of the configurations in deploy/."""


def serve(exporter: Exporter, config: RunConfig, narrate: Narrator) -> None:
    """Serve metrics where the configuration asks for that."""
    if config.metrics.port is not None:
        exporter.announce(server_targets(config))
        port = exporter.serve(config.metrics.host, config.metrics.port)
        narrate(f"metrics at http://{config.metrics.host}:{port}/metrics")


def metrics_of(exporter: Exporter, config: RunConfig) -> Metrics:
    """Where the run's numbers go: to the exporter, and to Ray where the configuration asks for that."""
    if not config.metrics.ray_bridge:
        return exporter
    from gkd_dist.cluster.ray_metrics import RayMetrics

    return RayMetrics(exporter)


def name_run(metrics: Metrics, config: RunConfig, directory: RunDirectory) -> None:
    """Set what is constant over the run."""
    metrics.gauge(
        "gkd_run_info",
        1,
        run=directory.name,
        student=config.student.model,
        teacher=teacher_name(config),
        divergence=config.objective.divergence,
    )
    metrics.gauge("gkd_run_max_steps", config.learner.max_steps)
    metrics.gauge("gkd_staleness_limit_versions", config.max_staleness)
    metrics.gauge("gkd_checkpoint_interval_steps", config.checkpoint.save_steps)


@asynccontextmanager
async def end_scraped(accounts: StepAccounts, scrapes: Scrapes) -> AsyncIterator[None]:
    """A block that ends in order says so to whoever scrapes, who would take its silence for a death."""
    stopped: StoppedError | None = None
    try:
        yield
    except StoppedEarlyError:
        raise
    except StoppedError as error:
        stopped = error
    accounts.show("ended", 0)
    with noticing_signals() as is_signalled:
        await scrapes.wait(LAST_SCRAPE_S, is_signalled)
    if stopped is not None:
        raise stopped
