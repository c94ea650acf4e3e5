"""Records of train steps for trackio (floor F2)."""

import os
from collections.abc import Mapping
from typing import Any

import trackio

from gkd_dist.metrics.sinks import Record
from gkd_dist.metrics.trackers import PROJECT, numbers_of


class TrackioSink:
    """Implements `interfaces.RecordSink`. The environment of trackio holds: TRACKIO_DIR, TRACKIO_PROJECT, ...

    Args:
        run: its name there; every attempt goes on with it.
        config: resolved.
    """

    def __init__(self, run: str, config: Mapping[str, Any]) -> None:
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self._run = trackio.init(project=project, name=run, config=dict(config), resume="allow")

    def write(self, record: Record) -> None:
        self._run.log(numbers_of(record), step=int(record["step"]))

    def close(self) -> None:
        self._run.finish()
