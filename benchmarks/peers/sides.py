"""Running one block: a side, in processes of its own, on a work; what it leaves is the same for every side."""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gkd_side
from measuring import measure
from work import Work

from gkd_dist.process import actor_environment

SCRIPT = Path(__file__).with_name("trl_side.py")


@dataclass(frozen=True)
class Peer:
    """TRL's environment.

    Args:
        python: its interpreter.
        path: folders put before its packages (PYTHONPATH); empty where the interpreter finds TRL by itself.
    """

    python: str
    path: str = ""

    def check(self) -> None:
        """End this process, with what to do, where the interpreter is not there."""
        if shutil.which(self.python) is None:
            sys.exit(f"{self.python} is not there; `make peers` makes it, or give --trl-python")


def settings_of_processes(threads: int) -> dict[str, str]:
    """Environment of either side: threads, and what gkd_dist sets for its own actors, so that it is no difference."""
    return {**actor_environment(), "OMP_NUM_THREADS": str(threads)}


def run_gkd(work: Work, folder: Path, threads: int, engines: Sequence[str] = ()) -> dict[str, Any]:
    """gkd_dist on `work`; everything of it lies in `folder`."""
    fresh(folder)
    measured = measure(gkd_side.command(work, folder, engines), folder / "log.txt", settings_of_processes(threads))
    return measured | gkd_side.result(folder)


def run_trl(work: Work, folder: Path, threads: int, trainer: str, peer: Peer) -> dict[str, Any]:
    """TRL's `trainer` (`gkd`, `distillation`) on `work`; everything of it lies in `folder`."""
    fresh(folder)
    file = work.save(folder / "work.json")
    command = [peer.python, str(SCRIPT), str(file), trainer, str(folder)]
    measured = measure(command, folder / "log.txt", settings_of_processes(threads) | {"PYTHONPATH": peer.path})
    return measured | json.loads((folder / "result.json").read_text())


def fresh(folder: Path) -> None:
    """Empty: what an interrupted block left is of no use."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def held_out(student: Path, teacher: Path, rows: Path, new_tokens: int, folder: Path) -> dict[str, Any]:
    """Divergence of `student` from `teacher` by `gkd eval`: nats per token with intervals, all in float32.

    Args:
        rows: JSON lines with prompt and completion.

    Returns:
        `figures`, and for each row of `summary.HELD_OUT` its nats and its tokens, so that students can be compared row
        by row.
    """
    fresh(folder)
    command = [
        *(sys.executable, "-m", "gkd_dist", "eval", str(student), "--task", "generation", "--data", str(rows)),
        *(f"teacher={teacher}", "fields.reference=completion", f"decoding.max_new_tokens={new_tokens}"),
        *("decoding.temperature=1", "decoding.batch_size=32", "dtype=float32", f"output={folder / 'results'}"),
    ]
    measure(command, folder / "log.txt", actor_environment())
    figures = json.loads((folder / "results" / "results.json").read_text())["figures"]
    predictions = [json.loads(line) for line in (folder / "results" / "predictions.jsonl").read_text().splitlines()]
    return {
        "figures": figures,
        "rows": {
            "on_policy": [_nats(each["on_samples"]) for each in predictions],
            "reference": [_nats([each["on_reference"]]) for each in predictions],
        },
    }


def _nats(distances: Sequence[dict[str, float]]) -> list[float]:
    return [sum(each["forward_kl"] for each in distances), sum(each["num_tokens"] for each in distances)]
