"""What of a plan is done, begun, or was done with another configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gkd_dist.errors import RunError
from gkd_dist.experiments.contents import Contents
from gkd_dist.experiments.identity import (
    Inputs,
    changed_inputs,
    differences,
    evaluation_identity,
    identities,
    inputs,
    settings_of,
)
from gkd_dist.experiments.plan import PlannedEvaluation, PlannedRun
from gkd_dist.experiments.record import (
    TRAIN,
    RunRecord,
    is_evaluated,
    is_trained,
    move_aside,
    read_record,
    write_record,
)

_SHOWN = 3
"""Differences of a run, and runs, that an error lists."""
_WHY_UNKNOWN = "its configuration is the same, but what it reads from was done anew, or a former version began it"


@dataclass
class Standing:
    """A run, and what is left to do of it."""

    run: PlannedRun
    identity: str
    settings: dict[str, object]
    inputs: dict[str, Inputs]
    """By part."""
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
    by_name, reads = identities(plan, folder), _inputs(plan, folder)
    standings, changed = [], []
    for run in plan:
        identity, settings, own, record = by_name[run.name], settings_of(run, folder), reads[run.name], read_record(run)
        if record is not None and _is_another(record, identity, own):
            texts = differences(record.settings, settings) + changed_inputs(record.inputs.get(TRAIN, {}), own[TRAIN])
            changed.append((run, texts))
            continue
        evaluations = [(each, evaluation_identity(identity, each, folder)) for each in run.evaluations]
        left = [pair for pair in evaluations if not is_evaluated(*pair, own[pair[0].name], record)]
        standings.append(Standing(run, identity, settings, own, record, is_trained(run, record), left))
    if changed:
        raise RunError(_refusal(changed))
    return standings


def note_inputs(standings: Sequence[Standing]) -> None:
    """Complete the records of former versions, which did not note what was read: what is there now, it was then."""
    for each in standings:
        if each.record is None:
            continue
        left = {evaluation.name for evaluation, _ in each.evaluations}
        missing = {part: own for part, own in each.inputs.items() if part not in (*each.record.inputs, *left)}
        if missing:
            each.record = each.record.model_copy(update={"inputs": {**each.record.inputs, **missing}})
            write_record(each.run, each.record)


def move_changed(plan: Sequence[PlannedRun], folder: Path) -> list[Path]:
    """Put runs that were begun with another configuration aside; returns where they are now."""
    by_name, reads = identities(plan, folder), _inputs(plan, folder)
    moved = []
    for run in plan:
        record = read_record(run)
        if record is not None and _is_another(record, by_name[run.name], reads[run.name]):
            moved.append(move_aside(run.folder, folder / "former", f"{run.name}-{record.identity}"))
    return moved


def _inputs(plan: Sequence[PlannedRun], folder: Path) -> dict[str, dict[str, Inputs]]:
    contents = Contents(folder / "contents.json")
    found = inputs(plan, folder, contents)
    contents.keep()
    return found


def _is_another(record: RunRecord, identity: str, own: dict[str, Inputs]) -> bool:
    return record.identity != identity or bool(changed_inputs(record.inputs.get(TRAIN, {}), own[TRAIN]))


def _refusal(changed: list[tuple[PlannedRun, list[str]]]) -> str:
    lines = [f"{len(changed)} run(s) were begun with another configuration, or of other files:"]
    for run, texts in changed[:_SHOWN]:
        more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
        lines.append(f"{run.folder}: {'; '.join(texts[:_SHOWN]) or _WHY_UNKNOWN}{more}")
    if len(changed) > _SHOWN:
        lines.append(f"and {len(changed) - _SHOWN} more")
    lines.append(
        "give these keys their former values, or choose another --output-dir, or let --replace-changed put those runs "
        "aside and do them again"
    )
    return "\n".join(lines)
