"""What the scripts of `benchmarks` say of arguments that they cannot use."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

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
        ("replay_queue", ["--rounds", "0"]),
        ("replay_queue", ["--records", "0"]),
        ("replay_queue", ["--records", "12"]),  # no whole batches of eight
        ("publication", ["--rounds", "0"]),
        ("publication", ["--receivers", "0"]),
        ("publication_vllm", ["--updates", "0"]),
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


@pytest.mark.parametrize(("records", "first"), [(8, 8), (64, 8), (400, 48), (2000, 248)])
def test_the_round_that_does_not_count_carries_whole_batches(
    records: int, first: int, script: Callable[[str], ModuleType]
) -> None:
    queue = script("replay_queue")
    assert queue.whole_batches(str(records)) == records
    assert queue.warm_up(records) == first


def test_draws_that_all_had_to_wait_say_nothing(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = script("replay_queue")
    monkeypatch.setattr(queue, "RESULT", tmp_path / "queue.json")
    result: dict[str, Any] = {}
    queue.write(result, 8, {"ours, row by row": [2.0]}, {"ours, row by row": [1.0]}, [])
    assert result["providers"]["ours, row by row"]["best_records_per_s"] == 4
    assert "draw_under_load_us" not in result
