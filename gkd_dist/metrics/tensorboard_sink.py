"""Records of train steps for TensorBoard (floor F2)."""

import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from gkd_dist.metrics.sinks import Record
from gkd_dist.metrics.trackers import numbers_of


class TensorBoardSink:
    """Implements `interfaces.RecordSink`: one scalar per number of a record, under the record's own names.

    Args:
        folder: of the event files, made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = EventFileWriter(str(folder), flush_secs=10)

    def write(self, record: Record) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers_of(record).items()]
        self._writer.add_event(Event(wall_time=time.time(), step=int(record["step"]), summary=Summary(value=values)))

    def close(self) -> None:
        self._writer.close()
