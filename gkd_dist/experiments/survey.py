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
    is_of_former_version,
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
_WHY_READS = "what it reads from has changed"
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
    is_renewed: bool = False
    """Whether its record on disk is still that of a former version."""

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
    standings, changed = [], []
    for each in _look(plan, folder):
        if each.why_another:
            changed.append((each.run, each.why_another))
            continue
        run, record = each.run, each.record
        evaluations = [(one, evaluation_identity(each.identity, one, folder)) for one in run.evaluations]
        left = [pair for pair in evaluations if not is_evaluated(*pair, each.inputs[pair[0].name], record)]
        trained = is_trained(run, record)
        standings.append(
            Standing(run, each.identity, each.settings, each.inputs, record, trained, left, each.is_renewed)
        )
    if changed:
        raise RunError(_refusal(changed))
    return standings


def note_inputs(standings: Sequence[Standing]) -> None:
    """Complete the records of former versions, which did not note what was read: what is there now, it was then.

    The last ones first: what tells that a record is of a former version are those of the runs that it reads from.
    """
    for each in reversed(standings):
        if each.record is None:
            continue
        left = {evaluation.name for evaluation, _ in each.evaluations}
        missing = {part: own for part, own in each.inputs.items() if part not in (*each.record.inputs, *left)}
        if missing or each.is_renewed:
            each.record = each.record.model_copy(update={"inputs": {**each.record.inputs, **missing}})
            write_record(each.run, each.record)


def move_changed(plan: Sequence[PlannedRun], folder: Path) -> list[Path]:
    """Put runs that were begun with another configuration aside; returns where they are now."""
    return [
        move_aside(each.run.folder, folder / "former", f"{each.run.name}-{each.record.identity}")
        for each in _look(plan, folder)
        if each.record is not None and each.why_another
    ]


@dataclass(frozen=True)
class _Seen:
    """A run, and what its record says of it."""

    run: PlannedRun
    identity: str
    settings: dict[str, object]
    inputs: dict[str, Inputs]
    record: RunRecord | None
    is_renewed: bool
    """Whether the record is that of a former version, with the identities of this one."""
    why_another: list[str]
    """Texts of what differs; empty where the record is of this run."""


def _look(plan: Sequence[PlannedRun], folder: Path) -> list[_Seen]:
    by_name, reads = identities(plan, folder), _inputs(plan, folder)
    found: dict[str, _Seen] = {}
    noted: dict[str, str] = {}
    for run in plan:
        identity, settings, own, record = by_name[run.name], settings_of(run, folder), reads[run.name], read_record(run)
        noted[run.name] = identity if record is None else record.identity
        follows_another = any(found[name].why_another for name in run.waits_for)
        is_renewed, why = False, []
        if record is not None:
            waits_for = [noted[name] for name in run.waits_for]
            is_renewed = (
                record.identity != identity
                and not follows_another
                and is_of_former_version(record.identity, record.settings, settings, waits_for)
            )
            record = _renewed(record, run, identity, settings, folder) if is_renewed else record
            why = changed_inputs(record.inputs.get(TRAIN, {}), own[TRAIN])
            if record.identity != identity:
                why = differences(record.settings, settings) + why
                why = why or [_WHY_READS if follows_another else _WHY_UNKNOWN]
        found[run.name] = _Seen(run, identity, settings, own, record, is_renewed, why)
    return list(found.values())


def _renewed(record: RunRecord, run: PlannedRun, identity: str, settings: dict[str, object], folder: Path) -> RunRecord:
    """The record with the identities of this version, and those of its parts that were of the former one."""
    former = {evaluation_identity(record.identity, each, folder): each for each in run.evaluations}
    now = {old: evaluation_identity(identity, each, folder) for old, each in former.items()}
    now[record.identity] = identity
    parts = [each.model_copy(update={"identity": now.get(each.identity, each.identity)}) for each in record.parts]
    return record.model_copy(update={"identity": identity, "settings": settings, "parts": parts})


def _inputs(plan: Sequence[PlannedRun], folder: Path) -> dict[str, dict[str, Inputs]]:
    contents = Contents(folder / "contents.json")
    found = inputs(plan, folder, contents)
    contents.keep()
    return found


def _refusal(changed: list[tuple[PlannedRun, list[str]]]) -> str:
    lines = [f"{len(changed)} run(s) were begun with another configuration, or of other files:"]
    for run, texts in changed[:_SHOWN]:
        more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
        lines.append(f"{run.folder}: {'; '.join(texts[:_SHOWN])}{more}")
    if len(changed) > _SHOWN:
        lines.append(f"and {len(changed) - _SHOWN} more")
    lines.append(
        "give these keys their former values, or choose another --output-dir, or let --replace-changed put those runs "
        "aside and do them again"
    )
    return "\n".join(lines)
