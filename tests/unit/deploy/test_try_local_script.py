"""deploy/compose/try-local.sh with stand-ins for Ray, gkd and Prometheus: what it asks of them, and how it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "deploy" / "compose" / "try-local.sh"
LIMIT_S = 60

STAND_INS = {
    "ray": "exec sleep 100",
    "prometheus": "exec sleep 100",
    # Answers of Prometheus' server; all else is for the real one.
    "python": f'case "$*" in *api/v1/query*) cat >/dev/null; echo 2 ;; *) exec {sys.executable} "$@" ;; esac',
    "gkd": 'echo "gkd $*" >>"$CALLS"\n'
    'case "$1" in submit) echo "submitted tiny-attempt-1 to here" ;; stop) exit "$STOPPED" ;; esac',
}


class Trial:
    """Where the script runs."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self.calls.touch()
        programs = folder / "bin"
        programs.mkdir()
        for name, text in STAND_INS.items():
            (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (programs / name).chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(folder), "CALLS": str(self.calls),
            "GKD_PROMETHEUS": str(programs / "prometheus"), "GKD_TRY_OUTPUT": str(folder / "runs"),
            "GKD_TRY_WINDOW_S": "1", "GKD_TRY_LIMIT_S": "30", "STOPPED": "0",
        }  # fmt: skip

    def run(self, *words: str, **environment: str) -> int:
        command = ["bash", str(SCRIPT), *words]
        done = subprocess.run(
            command, env=self.environment | environment, capture_output=True, timeout=LIMIT_S, check=False
        )
        return done.returncode

    def called(self, what: str) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if line.startswith(f"gkd {what}")]


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


def test_a_number_of_steps_is_the_users_where_one_is_given(trial: Trial) -> None:
    assert trial.run("tiny", "learner.max_steps=7") == 0
    (submitted,) = trial.called("submit")
    steps = [word for word in submitted.split() if word.startswith("learner.max_steps=")]
    assert steps == ["learner.max_steps=100000", "learner.max_steps=7"], "the last one holds"
    assert trial.called("report") == [f"gkd report latest --output-dir {trial.environment['GKD_TRY_OUTPUT']}"]


def test_a_run_that_does_not_stop_well_fails_the_trial(trial: Trial) -> None:
    assert trial.run("tiny", STOPPED="70") == 70
    assert trial.called("report") == []
