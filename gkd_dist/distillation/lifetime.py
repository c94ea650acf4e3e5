"""The time in which everything that computes is there, from the start of the first engine to the end of the last."""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from gkd_dist.errors import StalledError, StoppedError
from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Journal, Metrics
from gkd_dist.metrics.console import Narrator
from gkd_dist.pipeline.phases import Phase
from gkd_dist.pipeline.watchdog import Watchdog
from gkd_dist.preparation import PreparedJob
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.stop_signals import StopSignals
from gkd_dist.supervision.together import unless_stopped

logger = logging.getLogger(__name__)


@asynccontextmanager
async def started(
    prepared: PreparedJob,
    directory: RunDirectory,
    metrics: Metrics,
    narrate: Narrator,
    signals: StopSignals,
    leave_stalled: Callable[[int], object],
) -> AsyncIterator[tuple[Fleet, Journal | None]]:
    """Everything that computes, and the journal; closed with the block, and where a signal comes before it begins.

    Raises:
        StoppedEarlyError: one came.
        StalledError: no part has come up for too long (on Ray each has a deadline of its own before that), or closing
            them does not end. Where the block had failed before, its own error, and a line about closing.
    """
    config = prepared.blueprint.config
    stall_s, startup_s = config.supervision.stall_timeout_s, config.cluster.startup_timeout_s
    said, told_at, closing_at = [], time.monotonic(), math.inf
    failure: Exception | None = None

    def say(line: str) -> None:
        nonlocal told_at
        said.append(line)
        told_at = time.monotonic()
        narrate(line)

    def watchdog(phase: Phase, idle_s: Callable[[], float], timeout_s: float, file: Path) -> Watchdog:
        """Failures have words of their own."""
        tell: Callable[[], dict[str, Any]] = partial(dict, said=said)
        return Watchdog(phase, idle_s, timeout_s, file, tell, spare=(Exception,), exit=leave_stalled)

    # How the run ended comes before what closing it shows: another file.
    closing_file = directory.diagnosis.with_name("diagnosis-closing.json")
    closing = watchdog(Phase.CLOSING, lambda: max(0.0, time.monotonic() - closing_at), stall_s, closing_file)
    starting = watchdog(Phase.STARTING, lambda: time.monotonic() - told_at, stall_s + startup_s, directory.diagnosis)
    try:
        async with closing, AsyncExitStack() as stack:

            async def start() -> tuple[Fleet, Journal | None]:
                fleet = prepared.blueprint.fleet(metrics, say=say, when_connected=signals.install)
                running = await stack.enter_async_context(fleet)
                return running, await stack.enter_async_context(prepared.blueprint.journal(directory.journal))

            try:
                async with starting:
                    parts = await unless_stopped(signals.event, start())
                if parts is None:
                    raise signals.error(str(directory.path))
                signals.begin()
                narrate("all engines are up")
                yield parts
            except Exception as error:
                failure = error
                raise
            finally:
                closing_at = time.monotonic()
    except StalledError as stalled:
        if failure is None or stalled is failure or isinstance(failure, StoppedError):
            raise
        logger.error("after the failure: %s", stalled)
    if failure is not None:  # outside the handler: its own cause and context stay as they are
        raise failure
