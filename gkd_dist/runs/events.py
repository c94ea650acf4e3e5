"""What happened to a run beside its steps, in `events.jsonl`: one JSON object per line (floor F2).

    log = EventLog(directory.events, attempt=1)
    log.write("replica", role="sampler", slot=0, former="healthy", state="dead", reason="oom")

The controller alone writes it. A line that a crash cut off is passed over.
"""

import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field, ValidationError

from gkd_dist.errors import plain
from gkd_dist.runs.documents import Document

logger = logging.getLogger(__name__)

MAX_DETAIL = 500
MAX_FILE_BYTES = 32 << 20
"""No more is written: a replica that is suspect now and then changes as long as a run lasts."""


class RunEvent(Document):
    """One thing that happened."""

    at: str
    """UTC, ISO 8601, milliseconds."""
    attempt: int = Field(ge=1)
    kind: Literal["stage", "replica", "scale", "learner", "checkpoint"]
    """`stage`: what the job does now; `replica`: a slot changed its state; `scale`: so many replicas are asked for;
    `learner`: another one takes the place of one that died; `checkpoint`: written, or failed."""
    role: str = ""
    """`sampler`, `teacher`, `teacher NAME` or `learner`."""
    slot: int | None = None
    former: str = ""
    """What was before: a state, or a number of replicas."""
    state: str = ""
    """What is now."""
    reason: str = ""
    step: int | None = None
    detail: str = Field(default="", max_length=MAX_DETAIL)

    @property
    def seconds(self) -> float:
        """Unix time."""
        return datetime.fromisoformat(self.at).timestamp()


class Tell(Protocol):
    """Takes one event; never raises for a disk that fails."""

    def __call__(self, kind: str, *, ago_s: float = 0.0, **fields: Any) -> None: ...


def nobody(kind: str, *, ago_s: float = 0.0, **fields: Any) -> None:
    """A `Tell` that nobody listens to."""


class EventLog:
    """Appends events; a disk that fails is logged once, and does not end the run.

    Args:
        path: the file, made with the first event.
        attempt: of the run.
        clock: Unix seconds.
    """

    def __init__(self, path: Path, attempt: int, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._attempt = attempt
        self._clock = clock
        self._is_silent = False

    def write(self, kind: str, *, ago_s: float = 0.0, **fields: Any) -> None:
        """A `Tell`: the fields are those of `RunEvent`.

        Args:
            ago_s: so long ago it happened.

        Raises:
            ValidationError: fields that an event does not have.
        """
        moment = datetime.fromtimestamp(self._clock() - ago_s, UTC).isoformat(timespec="milliseconds")
        fields["detail"] = str(fields.get("detail", ""))[:MAX_DETAIL]
        event = RunEvent(at=moment, attempt=self._attempt, kind=kind, **fields)  # type: ignore[arg-type]
        if self._is_silent:
            return
        try:
            self._append(event.model_dump_json(exclude_defaults=True).encode() + b"\n")
        except OSError as error:
            self._is_silent = True
            logger.warning("%s: events are no longer written (%s)", self._path, plain(error))

    def _append(self, line: bytes) -> None:
        with self._path.open("a+b") as file:
            if file.tell() + len(line) > MAX_FILE_BYTES:
                self._is_silent = True
                logger.warning("%s: events are no longer written (%d bytes are there)", self._path, file.tell())
                return
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line off
                    line = b"\n" + line
            file.write(line)


def read_events(path: Path) -> list[RunEvent]:
    """All that can be read, in the order of time; nothing where there is no file."""
    events = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            events.append(RunEvent.model_validate_json(line))
        except ValidationError:
            continue
    return sorted(events, key=lambda event: event.at)
