"""What benchmarks/plan.py says of predictions, and what it found."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gkd_dist.config.load import load_run_config

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plan_benchmark", FOLDER / "plan.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_errors_are_relative_to_what_was_measured(benchmark: ModuleType) -> None:
    found = benchmark.errors({"learner": 3.0, "samplers": 0.0}, {"learner": 2.0, "samplers": 0.0})
    assert found == {"learner": {"predicted_s": 3.0, "measured_s": 2.0, "error": 0.5}}


def test_the_first_step_is_left_out(benchmark: ModuleType, tmp_path: Path) -> None:
    records = [{"step": step, "learn_s": seconds, "step_s": seconds} for step, seconds in enumerate((9, 1, 2, 3))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    assert benchmark.measured(tmp_path)["learner"] == 2
    assert benchmark.measured(tmp_path)["samplers"] == 0


def test_every_case_is_a_valid_run(benchmark: ModuleType) -> None:
    common = [each.format(runs="runs") for each in benchmark.COMMON]
    for overrides in benchmark.CASES.values():
        config = load_run_config("quickstart", [*common, *overrides])
        assert (config.checkpoint.save_steps, config.checkpoint.journal) == (0, False)


@pytest.mark.parametrize("clock", ["cpu", "wall"])
def test_the_calibration_is_always_run_and_runs_of_the_other_clock_are_not_taken(
    benchmark: ModuleType, clock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run(case: str, runs: Path, clock: str) -> None:
        ran.append(case)
        directory = benchmark.place(runs, case, clock)
        directory.mkdir()
        (directory / "metrics.jsonl").write_text("{}\n" * 6)

    step = {"step": {"predicted_s": 1.0, "measured_s": 1.0}}
    monkeypatch.setattr(benchmark, "run", run)
    monkeypatch.setattr(benchmark, "compare", lambda runs, cases, clock: {"predicted": dict.fromkeys(cases, step)})
    monkeypatch.setattr(benchmark, "RESULT", tmp_path / "plan.json")
    for each in (clock, {"cpu": "wall", "wall": "cpu"}[clock], clock):
        monkeypatch.setattr(sys, "argv", ["plan", "--runs", str(tmp_path), "--only", "long-2", "--clock", each])
        benchmark.main()
    assert ran == ["base", "long-2", "base", "long-2"]
    assert list(json.loads((tmp_path / "plan.json").read_text())["overrides"]) == ["base", "long-2"]


@pytest.mark.parametrize("only", [["base"], []])
def test_a_choice_without_anything_to_predict_is_refused(
    benchmark: ModuleType, only: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["plan", "--only", *only])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 2


def test_the_kept_result_predicts_runs_it_was_not_calibrated_on_within_a_quarter() -> None:
    kept = json.loads((FOLDER / "plan.json").read_text())

    assert kept["calibrated_on"] not in kept["predicted"]
    assert len(kept["predicted"]) >= 3
    assert all(abs(each["step"]["error"]) < 0.25 for each in kept["predicted"].values())
