"""Rates out of a run's records."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gkd_dist.errors import ConfigError
from gkd_dist.planning.calibration import ROLES, calibrate, modelled, read_steps, work_of_step
from gkd_dist.planning.devices import Device
from gkd_dist.planning.prediction import Groups, Split, parts_of
from tests.planned_works import DEVICE, WORK

SPLIT, GROUPS = Split(1, 1, 1), Groups(1, (1,))


def machine(factors: dict[str, float]) -> Device:
    """DEVICE whose roles reach so many times their shares."""
    shares = DEVICE.achieved.model_dump()
    for role, factor in factors.items():
        part = shares[role]
        for key in ("compute", "memory", "host", "network"):
            if key in part:
                part[key] *= factor
        part["overhead_s"] /= factor
    return Device.model_validate({**DEVICE.model_dump(), "achieved": shares})


def records(device: Device, steps: int = 6) -> list[dict[str, float]]:
    """What a run on `device` would write: batches of 8, half of them the student's, of changing lengths."""
    written = []
    for step in range(steps):
        record = {
            "step": step,
            "student_sequences": 4,
            "fixed_sequences": 4,
            "sampled_tokens": 4.0 * (500 - 10 * step),
            "trained_tokens": 4 * (500 - 10 * step) + 4 * (300 + 5 * step),
            "skipped": 0,
        }
        record["scored_tokens"] = float(record["trained_tokens"] + 8 * (200 + step))
        parts = parts_of(work_of_step(WORK, record), device, SPLIT, GROUPS, shared=True)
        record |= {key: modelled(parts, role) for role, key in ROLES.items()}
        written.append(record)
    return written


def test_the_shares_of_the_machine_that_made_the_records_are_found() -> None:
    real = machine({"sampler": 0.3, "teacher": 0.7, "learner": 1.5, "publish": 0.2})
    found, fits = calibrate(DEVICE, WORK, SPLIT, GROUPS, records(real), shared=True)

    assert {fit.role: fit.factor for fit in fits} == pytest.approx(
        {"sampler": 0.3, "teacher": 0.7, "learner": 1.5, "publish": 0.2}
    )
    assert found.achieved.learner.compute == pytest.approx(real.achieved.learner.compute)
    assert found.achieved.publish.host == pytest.approx(real.achieved.publish.host)
    assert found.achieved.sampler.overhead_s == pytest.approx(real.achieved.sampler.overhead_s)
    assert "6 steps" in found.achieved.sampler.source


def test_numbers_and_lengths_of_a_step_are_its_own() -> None:
    work = work_of_step(WORK, records(DEVICE)[2])

    assert (work.batch_size, work.student_fraction) == (8, 0.5)
    assert (work.lengths.prompt, work.lengths.completion, work.lengths.fixed) == pytest.approx((202, 480, 310))


def test_a_step_slower_than_the_others_moves_no_median_and_a_low_quantile_takes_the_fastest() -> None:
    steps = records(DEVICE, 5)
    for record, slow in zip(steps, (1, 1, 2, 9, 9), strict=True):
        record["learn_s"] *= slow
    factors = [
        {fit.role: fit.factor for fit in calibrate(DEVICE, WORK, SPLIT, GROUPS, steps, shared=True, quantile=each)[1]}
        for each in (0.5, 0.2)
    ]
    assert [each["learner"] for each in factors] == pytest.approx([0.5, 1])


def test_steps_with_kept_answers_say_nothing_of_the_teacher() -> None:
    steps = records(DEVICE)
    for record in steps:
        record["score_cache_hit"] = 4
    fits = calibrate(DEVICE, WORK, SPLIT, GROUPS, steps, shared=True)[1]
    assert {fit.role for fit in fits} == {"sampler", "learner", "publish"}


def test_an_asynchronous_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="mode=sync"):
        calibrate(DEVICE, replace(WORK, max_staleness=1), SPLIT, GROUPS, records(DEVICE), shared=True)


def test_records_are_those_after_the_first_two_of_each_attempt(tmp_path: Path) -> None:
    lines = [{"step": step, "attempt": 1} for step in range(6)]
    lines += [{"step": step, "attempt": 2, "skipped": int(step == 7)} for step in range(4, 9)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "att')

    assert [(each["step"], each["attempt"]) for each in read_steps(path)] == [(2, 1), (3, 1), (6, 2), (8, 2)]


def test_too_short_a_run_and_none_at_all_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_steps(path)
    path.write_text('{"step": 0}\n{"step": 1}\n')
    with pytest.raises(ConfigError, match="run more"):
        read_steps(path)
