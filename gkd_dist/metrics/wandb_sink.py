"""Records of train steps for Weights & Biases (floor F2)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from gkd_dist.metrics.sinks import Record
from gkd_dist.metrics.trackers import PROJECT, numbers_of


class WandbSink:
    """Implements `interfaces.RecordSink`. The environment of W&B holds: WANDB_MODE, WANDB_PROJECT, WANDB_API_KEY, ...

    Args:
        folder: of the run, which W&B writes below.
        run: its name.
        identity: the same for every attempt of a run, so that they are one there too.
        config: resolved.
    """

    def __init__(self, folder: Path, run: str, identity: str, config: Mapping[str, Any]) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run,
            id=identity,
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )

    def write(self, record: Record) -> None:
        self._run.log(numbers_of(record), step=int(record["step"]))

    def close(self) -> None:
        self._run.finish()
