"""Tiny models, the command line, and what it does when nothing is in its way."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.gkd_process import Runs
from tests.tiny_runs import arguments, save_pairs

LOCAL = ("evaluation.enabled=false", "learner.max_steps=8", "checkpoint.save_steps=1")
RAY = (*LOCAL, "cluster.mode=ray", "weights.bucket_bytes=200000")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Runs]:
    """Makes the runs of tiny models below a folder, with these overrides."""
    folder = tmp_path_factory.mktemp("made")
    models = {
        "student": tiny.save_causal(folder / "student", seed=1),
        "teacher": tiny.save_causal(folder / "teacher", seed=2, num_layers=3),
    }
    pairs = save_pairs(folder / "pairs.jsonl")

    def make(path: Path, *overrides: str) -> Runs:
        given = [each for each in arguments(models, pairs, path) if not each.startswith("output_dir=")]
        return Runs(path, [*given, *overrides])

    return make


@pytest.fixture(scope="session")
def local_overrides() -> tuple[str, ...]:
    return LOCAL


@pytest.fixture
def local(made: Callable[..., Runs], tmp_path: Path) -> Iterator[Runs]:
    """Everything in one process, a checkpoint after every step."""
    runs = made(tmp_path / "local", *LOCAL)
    yield runs
    runs.end()


@pytest.fixture
def ray(made: Callable[..., Runs], tmp_path: Path) -> Iterator[Runs]:
    """As `local`, in Ray actors."""
    runs = made(tmp_path / "ray", *RAY)
    yield runs
    runs.end()


@pytest.fixture(scope="session")
def clean(made: Callable[..., Runs], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """What an uninterrupted run of `local` does."""
    runs = made(tmp_path_factory.mktemp("clean") / "local", *LOCAL)
    runs.ends(0)
    return runs


@pytest.fixture(scope="session")
def clean_ray(made: Callable[..., Runs], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """What an uninterrupted run of `ray` does."""
    runs = made(tmp_path_factory.mktemp("clean") / "ray", *RAY)
    runs.ends(0)
    return runs
