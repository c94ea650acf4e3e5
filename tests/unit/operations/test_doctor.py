"""`gkd doctor`: each finding says what to do, and a problem makes the exit code."""

import json
from pathlib import Path

import pytest

from gkd_dist.cli import main
from gkd_dist.operations import doctor


def test_versions_are_compared_without_their_build() -> None:
    assert doctor.package_version("torch", "2.13.0+cpu", "2.13.0").verdict == "ok"
    assert doctor.package_version("torch", "2.13.0+cpu", None).verdict == "ok"
    found = doctor.package_version("ray", "2.59.1", "2.60.0")
    assert (found.verdict, found.advice) == ("warning", "pip install 'ray==2.60.0'")
    assert [doctor.python_version((3, minor)).verdict for minor in (10, 11, 13, 14)] == [
        "problem",
        "ok",
        "ok",
        "problem",
    ]


@pytest.mark.parametrize(
    ("port", "hosts", "verdict"),
    [
        (8265, {"127.0.0.1", "::1"}, "ok"),
        (8265, {"127.0.0.1", "0.0.0.0"}, "warning"),
        (6379, {"10.0.0.4"}, "warning"),
        (9400, {"::"}, "warning"),
    ],
)
def test_a_port_open_to_others_is_a_warning(port: int, hosts: set[str], verdict: str) -> None:
    found = doctor.listener(port, hosts)
    assert found.verdict == verdict
    assert ("RAY_AUTH_MODE=token" in found.advice) == (verdict == "warning" and port != 9400)


@pytest.mark.parametrize(("mode", "code"), [(0o600, 0), (0o644, 2)])
def test_the_mode_of_the_token_file_decides(
    mode: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("not-to-be-shown")
    path.chmod(mode)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "shared_memory", lambda folder: doctor.Finding("shared memory", "ok", ""))
    assert main(["doctor", "--json", "--output-dir", str(tmp_path / "runs")]) == code
    said = capsys.readouterr().out
    findings = {each["check"]: each for each in json.loads(said)["findings"]}
    assert findings["token"]["advice"] == (f"chmod 600 {path}" if code else "")
    assert "not-to-be-shown" not in said and not (tmp_path / "runs").exists()


def test_too_little_memory_and_no_folder_are_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=64 << 20))
    assert doctor.shared_memory(tmp_path).verdict == "problem"
    assert doctor.disk(tmp_path).verdict == "warning"
    (tmp_path / "file").touch()
    assert doctor.disk(tmp_path / "file").verdict == "problem"


def test_lines_say_what_was_found_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--output-dir", str(tmp_path), "--address", "127.0.0.1:1"])
    said = capsys.readouterr().out
    assert code == 2
    (line,) = [line for line in said.splitlines() if line.startswith("problem  cluster")]
    assert "no Ray dashboard answers" in line and "ray start --head" in line
