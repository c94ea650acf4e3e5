"""A cluster of a head and two more nodes on this machine, and a tiny run for it."""

import json
import os
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from ray.cluster_utils import Cluster

from tests import tiny

MARK = "GKD_SOAK"
"""Environment variable that every process of a soak inherits."""
TARGETS = {"sampler": (1, 2, 3), "teacher": (1, 2)}
"""What scale commands ask for."""
_NODES = 3
_STORE_BYTES = 80_000_000


@contextmanager
def cluster() -> Iterator[tuple[str, str]]:
    """Its address, and the value of MARK in all its processes."""
    mark = uuid.uuid4().hex
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1", MARK: mark}
    with mock.patch.dict(os.environ, environment):
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": _STORE_BYTES})
        try:
            for _ in range(_NODES - 1):
                nodes.add_node(num_cpus=2, object_store_memory=_STORE_BYTES)
            yield nodes.address, mark
        finally:
            nodes.shutdown()


def save_models_and_data(folder: Path) -> dict[str, str]:
    """`student`, `teacher` and `data`, with prompts of unequal lengths."""
    rng = random.Random(0)
    rows = [
        {"prompt": _words(rng, rng.randint(2, 8)), "completion": _words(rng, rng.randint(2, 10))} for _ in range(144)
    ]
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "student.model": str(tiny.save_causal(folder / "student", seed=1)),
        "teacher.model": str(tiny.save_causal(folder / "teacher", seed=2, num_layers=3)),
        "data.path": str(data),
    }


def _words(rng: random.Random, number: int) -> str:
    return " ".join(f"w{rng.randrange(3, tiny.VOCABULARY)}" for _ in range(number))


def overrides(inputs: dict[str, str], output: Path, *, num_steps: int, seed: int, **more: object) -> list[str]:
    """Of the recipe `tiny`: an asynchronous run; keys in `more` have `__` for a dot, and win."""
    settings: dict[str, object] = {
        **inputs,
        "output_dir": output,
        "seed": seed,
        "mode": "async",
        "replay.max_staleness": 2,
        "learner.max_steps": num_steps,
        "learner.batch_size": 8,
        "learner.learning_rate": 1e-3,
        "data.num_train": 96,
        "data.num_held_out": 48,
        "checkpoint.save_steps": 10,
        **{key.replace("__", "."): value for key, value in more.items()},
    }
    return [f"{key}={value}" for key, value in settings.items()]


def on_cluster(address: str) -> dict[str, object]:
    """Settings of a run with two replicas of each role that heals fast and often."""
    return {
        "cluster__mode": "ray",
        "cluster__address": address,
        "cluster__request_timeout_s": 60,
        "cluster__startup_timeout_s": 120,
        "sampler__num_replicas": 2,
        "teacher__num_replicas": 2,
        "supervision__probe_interval_s": 2.0,
        "supervision__probe_timeout_s": 1.9,
        "supervision__max_restarts": 1000,
        "supervision__restart_backoff_s": 0.2,
        "supervision__max_restart_backoff_s": 2.0,
        "supervision__infra_attempts": 20,
        "supervision__max_learner_restarts": 10,
        "supervision__stall_timeout_s": 180,
    }
