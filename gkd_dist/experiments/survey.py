"""What of a plan is done, begun, or was done with another configuration."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gkd_dist.errors import RunError
from gkd_dist.experiments.identity import differences, evaluation_identity, identities, settings_of
from gkd_dist.experiments.plan import PlannedEvaluation, PlannedRun
from gkd_dist.experiments.record import RunRecord, is_evaluated, is_trained, read_record

_SHOWN = 3
"""Differences of a run, and runs, that an error lists."""


@dataclass
class Standing:
    """A run, and what is left to do of it."""

    run: PlannedRun
    identity: str
    settings: dict[str, object]
    record: RunRecord | None
    is_trained: bool
    evaluations: list[tuple[PlannedEvaluation, str]]
    """Those that are not done, each with its identity."""

    @property
    def is_done(self) -> bool:
        return self.is_trained and not self.evaluations

    @property
    def is_begun(self) -> bool:
        return self.record is not None and bool(self.record.parts)


def survey(plan: Sequence[PlannedRun], folder: Path) -> list[Standing]:
    """How every run of the plan stands.

    Raises:
        RunError: some were begun with another configuration.
    """
    by_name = identities(plan, folder)
    standings, changed = [], []
    for run in plan:
        identity, settings, record = by_name[run.name], settings_of(run, folder), read_record(run)
        if record is not None and record.identity != identity:
            changed.append((run, differences(record.settings, settings)))
            continue
        evaluations = [(each, evaluation_identity(identity, each, folder)) for each in run.evaluations]
        left = [pair for pair in evaluations if not is_evaluated(*pair, record)]
        standings.append(Standing(run, identity, settings, record, is_trained(run, record), left))
    if changed:
        raise RunError(_refusal(changed))
    return standings


def move_changed(plan: Sequence[PlannedRun], folder: Path) -> list[Path]:
    """Put runs that were begun with another configuration aside; returns where they are now."""
    by_name = identities(plan, folder)
    moved = []
    for run in plan:
        record = read_record(run)
        if record is not None and record.identity != by_name[run.name]:
            target = folder / "former" / f"{run.name}-{record.identity}"
            target.parent.mkdir(exist_ok=True)
            if target.exists():
                shutil.rmtree(target)
            run.folder.rename(target)
            moved.append(target)
    return moved


def _refusal(changed: list[tuple[PlannedRun, list[str]]]) -> str:
    lines = [f"{len(changed)} run(s) were begun with another configuration:"]
    for run, texts in changed[:_SHOWN]:
        more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
        lines.append(f"{run.folder}: {'; '.join(texts[:_SHOWN]) or 'what it reads from has changed'}{more}")
    if len(changed) > _SHOWN:
        lines.append(f"and {len(changed) - _SHOWN} more")
    lines.append(
        "give these keys their former values, or choose another --output-dir, or let --replace-changed put those runs "
        "aside and do them again"
    )
    return "\n".join(lines)
