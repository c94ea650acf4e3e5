"""The watchdog over a phase of a job."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from gkd_dist.errors import LearnerLostError, StoppedError, UserError
from gkd_dist.pipeline.diagnosis import diagnose
from gkd_dist.pipeline.phases import Phase, Pulse
from gkd_dist.pipeline.watchdog import LastWords, Watchdog

if TYPE_CHECKING:
    from gkd_dist.pipeline.job import Job


def job_watchdog(
    job: "Job",
    phase: Phase,
    timeout_s: float,
    *,
    last_words: LastWords | None = None,
    overdue_s: Callable[[], float] = lambda: math.inf,
) -> Watchdog:
    """
    Args:
        timeout_s: without progress; one answered request is progress.
        overdue_s: of what has a longer deadline of its own, while it is waited for.
        last_words: as `Watchdog`.
    """
    return Watchdog(
        phase,
        Pulse(job.fleet, lambda: min(job.accounts.idle_s(), overdue_s())).idle_s,
        timeout_s,
        job.diagnosis,
        lambda: diagnose(job.fleet, job.stage.ring),
        last_words=last_words,
        # A failed step leaves a diagnosis whatever it is; before and after, what the user can mend says enough.
        spare=(LearnerLostError, StoppedError, *([] if phase is Phase.TRAINING else [UserError])),
        exit=job.leave,
    )
