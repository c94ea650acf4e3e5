"""What a report says of where the time of a step goes."""

from pathlib import Path
from typing import Any

import pytest

from gkd_dist.reports.breakdown import Breakdown, breakdowns
from gkd_dist.reports.run_view import RunView
from tests.run_directories import record_of


def view(*records: dict[str, Any], mode: str = "sync") -> RunView:
    return RunView("run", Path("run"), config={"mode": mode}, records=list(records))


def only(run: RunView) -> Breakdown:
    (found,) = breakdowns(run, 0)
    return found


def seconds(found: Breakdown, role: str) -> dict[str, float]:
    row = next(row for row in found.rows if row.name == role)
    return {part.name: part.seconds for part in row.parts} | {"idle": row.idle_s}


def test_parts_and_idle_of_a_role_make_up_the_step() -> None:
    found = only(view(*(record_of(step) for step in range(4))))
    assert found.step_s == 2.0
    assert seconds(found, "sampler") == {"sampling": 0.5, "loading weights": 0.25, "idle": 1.25}
    assert seconds(found, "learner") == {"learning": 1.0, "idle": 1.0}
    assert seconds(found, "controller") == {"computing": 0.01, "idle": 1.99}
    assert [row.name for row in found.rows] == ["sampler", "learner", "controller"]  # nobody scored anything
    assert ("sampler", "sampling: transport", "0.125", "6.2%") in found.table
    assert ("nobody", "between the parts", "0.25", "12.5%") in found.table


def test_it_is_of_the_steps_around_the_median_without_the_first_of_an_attempt() -> None:
    """Two slow ones that begin each attempt; then 1 to 8 s, of which those of 3 to 6 s are the middle."""
    warm_up = [record_of(step, step_s=1000.0) for step in (0, 1)]
    again = [record_of(step, attempt=2, step_s=1000.0) for step in (10, 11)]
    steps = [record_of(2 + index, step_s=float(second)) for index, second in enumerate((8, 1, 4, 5))]
    later = [record_of(12 + index, attempt=2, step_s=float(second)) for index, second in enumerate((2, 6, 3, 7))]
    found = only(view(*warm_up, *steps, *again, *later))
    assert found.step_s == 4.5
    assert found.note == "mean of the 4 of 8 steps that are nearest to the median"


def mixed() -> list[dict[str, Any]]:
    writing = {"step_s": 6.0, "sample_s": 3.0, "sampler_busy_s": 3.25, "student_sequences": 8}
    reading = {"step_s": 3.0, "sample_s": 0.0, "sampler_busy_s": 0.25, "student_sequences": 0}
    return [record_of(step, **(reading if step % 2 else writing)) for step in range(12)]


def test_synchronous_steps_in_which_the_student_writes_and_others_are_apart() -> None:
    writing, reading = breakdowns(view(*mixed()), 3)
    assert (writing.id, reading.id) == ("step-3-0", "step-3-1")
    assert writing.title == "Where a step in which the student writes spends its time"
    assert seconds(writing, "sampler") == {"sampling": 3.0, "loading weights": 0.25, "idle": 2.75}
    assert seconds(reading, "sampler") == {"loading weights": 0.25, "idle": 2.75}
    assert only(view(*mixed(), mode="async")).step_s == pytest.approx(4.5, abs=0.6)  # there no step has its own samples


def test_several_replicas_are_busy_for_the_mean_of_them() -> None:
    """In all, 1.5 s in which any was at work; each of them for 1 s of it."""
    fields = {"sample_s": 1.25, "sample_transport_s": 0.25, "load_s": 0.25, "sampler_busy_s": 1.0}
    found = only(view(*(record_of(step, **fields) for step in range(3))))
    row = found.rows[0]
    assert sum(part.seconds for part in row.parts) == pytest.approx(1.0)
    assert row.parts[0].seconds == pytest.approx(1.25 / 1.5)
    assert row.parts[0].parts[1].seconds == pytest.approx(0.25 / 1.5)


def test_records_that_do_not_say_enough_are_passed_over() -> None:
    record = record_of(0)
    del record["between_s"]
    assert breakdowns(view(record), 0) == []
    assert breakdowns(view(), 0) == []
    assert only(view(record_of(0, step_s=None, learn_s="x"))).rows  # damaged, and told as far as it goes
