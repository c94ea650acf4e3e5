"""What a real run reached, as shares of a device's peaks (floor F2).

Each role's shares are multiplied by one factor: what the model says a step takes over what it took, both for the tokens
that the step really had. Of all steps after the first ones the quantile of these ratios counts; the median of a machine
that is left alone, a lower one (shorter times) where other work comes and goes beside the run. One run tells one number
per role: how the time is divided between arithmetic, memory and overhead stays as the device's entry has it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gkd_dist.errors import ConfigError
from gkd_dist.planning.devices import Device
from gkd_dist.planning.prediction import Groups, Parts, Split, parts_of
from gkd_dist.planning.workload import Workload

WARM_UP_STEPS = 2
"""Of each attempt, left out: caches and allocators are filled, kernels chosen."""
ROLES = {"sampler": "sample_s", "teacher": "score_s", "learner": "learn_s", "publish": "publish_s"}


@dataclass(frozen=True, slots=True)
class Fit:
    """What one role took, and what the uncalibrated model had said."""

    role: str
    num_steps: int
    measured_s: float
    modelled_s: float

    @property
    def factor(self) -> float:
        """Of the role's shares."""
        return self.modelled_s / self.measured_s


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl` that count: the last one of each step, without the first steps of each attempt.

    Raises:
        ConfigError: none are there.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError([f"--calibrate: {path} cannot be read ({error.strerror}); give a run directory"]) from error
    steps: dict[int, dict[str, Any]] = {}
    begun: dict[Any, int] = {}
    for line in lines:
        try:
            record = json.loads(line)
            step, attempt = int(record["step"]), record.get("attempt", 1)
        except (ValueError, KeyError, TypeError):
            continue  # a line that a crash cut off
        begun.setdefault(attempt, step)
        if step < begun[attempt] + WARM_UP_STEPS or record.get("skipped"):
            steps.pop(step, None)
            continue
        steps[step] = record
    if not steps:
        raise ConfigError([f"--calibrate: {path} has no step beyond the first {WARM_UP_STEPS}; run more of them"])
    return list(steps.values())


def work_of_step(work: Workload, record: Mapping[str, Any]) -> Workload:
    """`work` with the numbers and lengths that one step really had."""
    student, fixed = record["student_sequences"], record["fixed_sequences"]
    lengths, trained = work.lengths, record["trained_tokens"]
    written = record.get("sampled_tokens", 0.0)
    completion = written / student if student and written else lengths.completion
    own = student * completion
    completions = (trained - own) / fixed if fixed and trained > own else lengths.fixed
    read = record.get("scored_tokens", 0.0)
    sequences = student + fixed
    readers = work.readers
    # Kept answers are not in scored_tokens: the prompts are then as long as elsewhere.
    prompt = read / readers / sequences - trained / sequences if readers else 0.0
    return replace(
        work,
        batch_size=int(sequences),
        student_fraction=student / sequences,
        per_batch=False,
        lengths=replace(
            lengths,
            prompt=prompt if prompt >= 1 else lengths.prompt,
            completion=completion,
            longest=max(lengths.longest, completion),
            fixed=completions,
        ),
    )


def modelled(parts: Parts, role: str) -> float:
    """Seconds of a role in one step."""
    return {
        "sampler": parts.sampling.latency_s,
        "teacher": parts.scoring_s,
        "learner": parts.learning.seconds,
        "publish": parts.publishing.seconds,
    }[role]


def calibrate(
    device: Device,
    work: Workload,
    split: Split,
    groups: Groups,
    records: Sequence[Mapping[str, Any]],
    *,
    shared: bool,
    quantile: float = 0.5,
    source: str = "a run",
) -> tuple[Device, tuple[Fit, ...]]:
    """`device` with the shares that a synchronous run reached, and what was found.

    Args:
        work: of the run, in the lengths that its data and limits promise; each step's own replace them.
        records: of its steps, as `read_steps`.
        quantile: of the ratios of measured to modelled time.
        source: what the run is called beside the shares.

    Raises:
        ConfigError: the run tells nothing.
    """
    if work.max_staleness:
        raise ConfigError(["--calibrate: the parts of an asynchronous run overlap; give a run with mode=sync"])
    fits = []
    steps = [(record, parts_of(work_of_step(work, record), device, split, groups, shared=shared)) for record in records]
    for role, key in ROLES.items():
        pairs = [
            (float(record[key]), modelled(parts, role))
            for record, parts in steps
            if record.get(key) and modelled(parts, role) > 0 and _tells(role, record)
        ]
        if not pairs:
            continue
        pairs.sort(key=lambda pair: pair[0] / pair[1])
        measured, expected = pairs[max(0, math.ceil(quantile * len(pairs)) - 1)]
        fits.append(Fit(role, len(pairs), measured, expected))
    if not fits:
        raise ConfigError(["--calibrate: no step of the run says how long a role took; give another run"])
    shares = device.achieved.model_dump()
    for fit in fits:
        part = shares[fit.role]
        for key in ("compute", "memory", "host", "network"):
            if key in part:
                part[key] *= fit.factor
        part["overhead_s"] /= fit.factor
        part["source"] = f"{source}, {fit.num_steps} steps"
    return Device.model_validate({**device.model_dump(), "achieved": shares}), tuple(fits)


def _tells(role: str, record: Mapping[str, Any]) -> bool:
    """Whether the role worked on the whole batch: answers that were kept are not in scored_tokens."""
    return role != "teacher" or not record.get("score_cache_hit")
