"""The pace of a run and its bottleneck, from its records."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.operations.pace import pace_of, read_pace


def record(step: int, **seconds: float) -> dict[str, float]:
    return {"policy_version": step + 1, "max_steps": 100, "loss": 1 / (step + 1), **seconds}


def test_the_busiest_role_holds_the_others_up() -> None:
    records = [record(step, step_s=4.0, sample_s=2.0, score_s=0.5, learn_s=1.0, publish_s=0.1) for step in range(3)]
    pace = pace_of(records)
    assert pace.bottleneck == "sampler"
    assert pace.busy == pytest.approx({"sampler": 0.5, "teacher": 0.125, "learner": 0.25, "weights": 0.025})
    assert (pace.loss, pace.step_s, pace.remaining_s) == (1 / 3, 4.0, 97 * 4.0)


def test_only_the_last_ten_steps_count() -> None:
    old = [record(step, step_s=100.0, sample_s=100.0) for step in range(5)]
    new = [record(step, step_s=1.0, learn_s=0.9) for step in range(5, 15)]
    pace = pace_of(old + new)
    assert (pace.bottleneck, pace.step_s, pace.remaining_s) == ("learner", 1.0, 85.0)


@given(st.lists(st.dictionaries(st.sampled_from(["step_s", "sample_s", "learn_s", "loss"]), st.floats(0, 1e6))))
def test_no_record_is_too_strange(records: list[dict[str, float]]) -> None:
    pace = pace_of(records)
    assert pace.bottleneck is None or pace.bottleneck in pace.busy


def test_a_file_that_is_being_written_is_read_up_to_its_last_complete_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_pace(path).loss is None
    padding = '{"step": 0, "padding": "' + "x" * 70_000 + '"}\n'
    path.write_text(padding + '{"loss": 0.5, "step_s": 2.0}\n{"loss": 0.2')
    assert (read_pace(path).loss, read_pace(path).step_s) == (0.5, 2.0)
