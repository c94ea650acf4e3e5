"""What a soak promises: every id once, lambda exact, staleness bounded, healed, converged, nothing left running."""

import time
from collections import Counter
from collections.abc import Iterable

import psutil

from gkd_dist.config.run import RunConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.replay.ledger import StepEntry
from gkd_dist.types import SampleId, Source
from tests.soak.course import Course


def broken_promises(course: Course) -> list[str]:
    """One line each; empty is what a soak is for."""
    config = course.config
    steps = [entry for entry in course.ledger.entries() if isinstance(entry, StepEntry)]
    dropped = [entry.sample_id for entry in course.ledger.dropped()]
    broken = [f"exit code {course.exit_code}"] if course.exit_code else []
    if [entry.step for entry in steps] != list(range(config.learner.max_steps)):
        broken.append(f"the ledger's steps are {[entry.step for entry in steps]}")
    times = Counter(sequence.sample_id for entry in steps for sequence in entry.sequences)
    number = config.learner.max_steps * config.learner.batch_size
    expected = {SampleId(course.directory.name, index) for index in range(number)}
    broken += [f"{sample_id} was trained on {number} times" for sample_id, number in times.items() if number > 1]
    broken += [f"{sample_id} was dropped" for sample_id in dropped]
    if missing := expected - times.keys():
        broken.append(f"never trained on: {sorted(missing)}")
    if unexpected := times.keys() - expected:
        broken.append(f"not to be trained on: {sorted(unexpected)}")
    mixture = _mixture(config)
    for entry in steps:
        num_student = sum(sequence.source is Source.STUDENT for sequence in entry.sequences)
        if num_student != mixture.num_student(entry.step) or len(entry.sequences) != config.learner.batch_size:
            broken.append(f"step {entry.step} has {num_student} of {len(entry.sequences)} from the student")
        for sequence in entry.sequences:
            versions = sequence.versions
            if versions and not entry.step - config.max_staleness <= versions.oldest <= versions.newest <= entry.step:
                broken.append(f"step {entry.step} trained on {sequence.sample_id} of versions {versions}")
    broken += [
        f"{serving} {role}(s) serve, {asked} were asked for"
        for role, (asked, serving) in course.targets.items()
        if serving != asked
    ]
    return broken


def _mixture(config: RunConfig) -> Mixture:
    objective = config.objective
    return Mixture(
        objective.student_fraction,
        objective.mix,
        objective.schedule,
        batch_size=config.learner.batch_size,
        seed=config.seed,
        max_steps=config.learner.max_steps,
    )


def divergence_gap(clean: Course, other: Course) -> dict[str, float]:
    """How much less another run brought the held-out divergence down than the clean one, as a share of what that did:
    0 is as well, 1 is not at all, below 0 is further."""
    gaps = {}
    for name in ("on_policy/forward_kl_nats", "reference/forward_kl_nats"):
        before, after = clean.held_out["before"][name], clean.held_out["after"][name]
        gaps[name] = (other.held_out["after"][name] - after) / (before - after)
    return gaps


def still_running(pids: Iterable[int], limit_s: float = 60.0) -> list[int]:
    """Those that are there after the limit; one that its parent has not looked at yet is gone."""
    end = time.monotonic() + limit_s
    left = set(pids)
    while left and time.monotonic() < end:
        left = {pid for pid in left if not _is_gone(pid)}
        time.sleep(0.1)
    return sorted(left)


def started_with(variable: str, value: str) -> list[int]:
    """Every process of this machine that has this environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
