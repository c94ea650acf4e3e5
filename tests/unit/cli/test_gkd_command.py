"""The `gkd` command: what it starts, what it prints, how it exits."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gkd_dist import __version__
from gkd_dist.cli import main
from gkd_dist.config.load import load_run_config
from gkd_dist.config.recipes import recipe_names, recipe_text
from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError, DataError, EngineError

MODELS = ["student.model=s", "teacher.model=t"]
HEAVY = {"torch", "ray", "vllm", "transformers", "datasets", "numpy", "pydantic", "yaml"}


class FakeModules:
    """Stands in for the modules behind the doors; records the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.result: int | BaseException = 0
        for module, function, call in (
            ("gkd_dist.cli.student_evaluation", "evaluate", self._record("evaluate")),
            ("gkd_dist.cli.preflight", "preflight", self._preflight),
            ("gkd_dist.cli.pruning", "prune", self._record("prune")),
            ("gkd_dist.distillation", "run", self._record("run")),
        ):
            fake = ModuleType(module)
            setattr(fake, function, call)
            monkeypatch.setitem(sys.modules, module, fake)

    def _record(self, name: str) -> Callable[..., int]:
        def call(*args: Any, **options: Any) -> int:
            self.calls.append((name, *args, *([options] if options else [])))
            if isinstance(self.result, BaseException):
                raise self.result
            return self.result

        return call

    def _preflight(self, config: RunConfig) -> list[str]:
        self._record("preflight")(config)
        return ["data: 3 rows", "tokenizers: the same"]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeModules:
    return FakeModules(monkeypatch)


def test_help_loads_nothing_heavy_and_offers_no_shell_completion() -> None:
    code = (
        "import sys\nfrom gkd_dist.cli import main\ncode = main(['--help'])\n"
        f"print('loaded:', sorted({HEAVY!r} & sys.modules.keys()))\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "loaded: []" in done.stdout
    for command in ("run", "validate", "recipes", "prune", "eval", "scale", "status", "explain"):
        assert f"\n  {command} " in done.stdout
    assert "completion" not in done.stdout


def test_python_m_is_the_same_command_and_carries_the_exit_code() -> None:
    command = [sys.executable, "-m", "gkd_dist", "validate", "no-such-recipe"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: recipe no-such-recipe: ")


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gkd {__version__}\n"


@pytest.mark.parametrize("code", [0, 70, 75])
def test_run_builds_the_configuration_and_returns_the_exit_code_of_the_run(fakes: FakeModules, code: int) -> None:
    fakes.result = code
    assert main(["run", "tiny", *MODELS, "learner.max_steps=9", "seed=3"]) == code
    assert fakes.calls == [("run", load_run_config("tiny", [*MODELS, "learner.max_steps=9", "seed=3"]))]


def test_a_relative_path_stays_relative_to_the_current_folder(fakes: FakeModules) -> None:
    main(["run", "tiny", *MODELS, "data.path=../x.jsonl.gz"])
    assert fakes.calls[0][1].data.path == "../x.jsonl.gz"


def test_nothing_starts_on_a_bad_configuration_and_each_problem_has_its_line(
    fakes: FakeModules, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "tiny", "objective.student_fraction=1.5", "oops"]) == 2
    out, err = capsys.readouterr()
    assert (out, fakes.calls) == ("", [])
    assert err.splitlines() == [
        'error: override "oops": must look like KEY=VALUE, such as learner.max_steps=100',
        "error: student.model: required, but not given; set it in the file or with student.model=VALUE",
        "error: teacher.model: required, but not given; set it in the file or with teacher.model=VALUE",
        "error: objective.student_fraction: must be between 0 and 1, got 1.5",
    ]


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (ConfigError(["a: b", "c: d"]), 2, ["error: a: b", "error: c: d"]),
        (DataError("row [3] has [bold]no[/bold] prompt\nuse {x}"), 2, ["error: row [3] has [bold]no[/bold] prompt", "error: use {x}"]),  # noqa: E501
        (DataError(), 2, ["error: DataError"]),
        (EngineError("the sampler died"), 70, ["error: the sampler died"]),
        (OSError(28, "No space left on device", "/data/metrics.jsonl"), 70, ["error: No space left on device: /data/metrics.jsonl; make room there, and run the same command again"]),  # noqa: E501
        (KeyboardInterrupt(), 130, ["interrupted"]),
    ],
)  # fmt: skip
def test_our_errors_are_shown_without_a_traceback(
    fakes: FakeModules, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, lines: list[str]
) -> None:
    fakes.result = error
    assert main(["run", "tiny", *MODELS]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == lines


def test_an_unexpected_error_keeps_its_traceback(fakes: FakeModules, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.result = ZeroDivisionError("[boom]")
    assert main(["run", "tiny", *MODELS]) == 70
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)")
    assert err.endswith("ZeroDivisionError: [boom]\n")


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["run"],
        ["run", "tiny", "--nonsense"],
        ["prune", "a", "b"],
        ["prune", "a", "b", "--num-layers", "0"],
        ["prune", "a", "b", "--num-layers", "2", "--drop-layers", "1,x"],
        ["prune", "a", "b", "--num-layers", "2", "--drop-layers", "1,-2"],
        ["prune", "a", "b", "--num-layers", "2", "--drop-layers", ""],
    ],
)
def test_wrong_usage_exits_2_and_starts_nothing(fakes: FakeModules, args: list[str]) -> None:
    assert main(args) == 2
    assert fakes.calls == []


def test_validate_checks_configuration_data_and_tokenizers(
    fakes: FakeModules, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", "tiny", *MODELS]) == 0
    assert capsys.readouterr().out == "data: 3 rows\ntokenizers: the same\nok\n"
    assert [call[0] for call in fakes.calls] == ["preflight"]


def test_validate_can_stop_at_the_configuration(fakes: FakeModules, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "tiny", *MODELS, "--config-only"]) == 0
    assert capsys.readouterr().out == "ok\n"
    assert fakes.calls == []


def test_validate_shows_a_configuration_that_runs_the_same(
    fakes: FakeModules, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["validate", "quickstart", "learner.learning_rate=1e-5", "--show"]) == 0
    path = tmp_path / "resolved.yaml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_run_config(str(path)) == load_run_config("quickstart", ["learner.learning_rate=1e-5"])


def test_validate_fails_where_preflight_does(fakes: FakeModules, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.result = DataError("data.path: no such file")
    assert main(["validate", "tiny", *MODELS]) == 2
    assert capsys.readouterr() == ("", "error: data.path: no such file\n")


def test_recipes_lists_all_with_summaries(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(len(line.split()) > 4 for line in lines)


def test_recipes_prints_one_or_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "quickstart"]) == 0
    assert capsys.readouterr().out == recipe_text("quickstart")
    assert main(["recipes", "quikstart"]) == 2
    assert "did you mean quickstart?" in capsys.readouterr().err


@pytest.mark.parametrize(("extra", "dropped"), [([], None), (["--drop-layers", "4,6, 7"], (4, 6, 7))])
def test_prune_hands_over_its_arguments(fakes: FakeModules, extra: list[str], dropped: tuple[int, ...] | None) -> None:
    assert main(["prune", "package:m", "out/s", "--num-layers", "24", *extra]) == 0
    assert fakes.calls == [("prune", "package:m", Path("out/s"), 24, dropped)]


@pytest.mark.parametrize(("extra", "model"), [([], None), (["--model", "runs/x/student"], "runs/x/student")])
def test_eval_hands_over_configuration_and_model(fakes: FakeModules, extra: list[str], model: str | None) -> None:
    assert main(["eval", "tiny", *MODELS, *extra]) == 0
    assert fakes.calls == [("evaluate", load_run_config("tiny", MODELS), model, {"as_json": False})]
