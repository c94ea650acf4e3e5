"""What benchmarks/plan.py says of predictions, and what it found."""

import importlib.util
import json
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
        assert load_run_config("quickstart", [*common, *overrides]).name


def test_the_kept_result_predicts_runs_it_was_not_calibrated_on_within_a_quarter() -> None:
    kept = json.loads((FOLDER / "plan.json").read_text())

    assert kept["calibrated_on"] not in kept["predicted"]
    assert len(kept["predicted"]) >= 3
    assert all(abs(each["step"]["error"]) < 0.25 for each in kept["predicted"].values())
