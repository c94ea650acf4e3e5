"""Which step a run goes on after: the newest that checkpoints and ledger agree on.

Three things of a run outlive its processes, and each may have lost its end: checkpoints say what the weights are, the
ledger what they were trained on, the journal what is scored and waits. A run can go on from a checkpoint that is whole
where the ledger names every sequence that it was trained on: then none is trained on twice, and none is left out. Where
the newest is not such a one, an older one may be; what came after it has not happened then. The journal has no say in
it: what it lacks is sampled and scored again.

The order in which this is made so (`return_to`) lets every crash in between lead to the same point: first newer
checkpoints go out of the way, then the ledger is cut, and last what is void leaves the journal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gkd_dist.checkpoints.store import Checkpoint, CheckpointStore
from gkd_dist.fault_points import fault_point
from gkd_dist.pipeline.progress import Progress
from gkd_dist.replay.ledger import Ledger


@dataclass(frozen=True)
class RecoveryPoint:
    """Where a run goes on."""

    progress: Progress
    checkpoint: Checkpoint | None
    """None at the beginning."""


def find_recovery_point(
    run: str, store: CheckpointStore, ledger: Ledger, progressed: Callable[[], object] = lambda: None
) -> RecoveryPoint:
    """Changes nothing on disk; reads every byte of what it says is good, and blocks.

    Args:
        run: for a run that has no checkpoint yet.
        progressed: called again and again while bytes are read.

    Raises:
        UserError: there are checkpoints, and none can be used.
    """

    def objection(step: int, path: Path) -> str | None:
        progress = Progress.read(path)
        return ledger.fault(step, run=progress.run, trained=progress.trained)

    checkpoint = store.newest(objection, progressed)
    progress = Progress(run) if checkpoint is None else Progress.read(checkpoint.path)
    return RecoveryPoint(progress, checkpoint)


def return_to(point: RecoveryPoint, store: CheckpointStore, ledger: Ledger) -> int:
    """Nothing on disk is of a later step any more, but for the journal; returns how many entries the ledger lost.

    Raises:
        OSError: it cannot be written; the same call again has the same result.
    """
    progress = point.progress
    store.set_aside(progress.step)
    fault_point("recovery.before_cut")
    return ledger.truncate(progress.step, run=progress.run, dropped=progress.dropped)
