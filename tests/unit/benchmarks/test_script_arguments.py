"""What the scripts of `benchmarks` say of arguments that they cannot use."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("compare", ["--jobs", "0"]),
        ("compare", ["--jobs", "-3"]),
        ("scale", ["weak", "--sizes", "0"]),
        ("scale", ["weak", "--sizes", "-5"]),
        ("scale", ["weak", "--result", "no-such-folder/scale.json"]),
        ("wire", ["--rounds", "0"]),
        ("wire", ["--rounds", "many"]),
        ("overlap", ["--rounds", "0"]),
        ("overlap", ["--steps", "0"]),
        ("packing", ["--rounds", "-1"]),
    ],
)
def test_numbers_and_files_that_cannot_be_used_are_refused(
    name: str,
    arguments: list[str],
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main = script(name).main
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert arguments[-2] in told
    assert "above 0" in told or "is no folder" in told


def test_good_ones_are_taken(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    counts = script("counts")
    assert counts.positive("3") == 3
    assert counts.writable(str(tmp_path / "new.json")) == tmp_path / "new.json"
