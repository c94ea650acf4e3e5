"""Where one record per train step goes: a JSON Lines file, a terminal, a log (floor F2).

All implement `interfaces.RecordSink`. A record that lacks some keys is written or shown without them.
"""

import json
import math
import os
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

Record = dict[str, float | int | str]

_STEPS_FOR_ETA = 10
"""Mean over the last this many steps: steady enough, and follows a change of pace."""


class JsonlSink:
    """Appends one JSON object per line, each flushed; numbers that are not finite become null.

    Args:
        path: the file; missing folders above it are made. A last line that was cut off by a crash is closed first.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = _ends_mid_line(path)
        self._file: TextIO = path.open("a", encoding="utf-8")
        if cut_off:
            self._file.write("\n")

    def write(self, record: Record) -> None:
        finite = {key: _plain(value) for key, value in record.items()}
        self._file.write(json.dumps(finite, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "JsonlSink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PlainLines:
    """One line of text per record, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._summary = StepSummary()

    def write(self, record: Record) -> None:
        print(self._summary.line(record), file=self._stream, flush=True)

    def close(self) -> None:
        """The stream belongs to the caller."""


class StatusLine:
    """One live line on a terminal; honours NO_COLOR. Other output of this process appears above it.

    Args:
        stream: a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._summary = StepSummary()
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._live = Live(Text("starting"), console=self._console, auto_refresh=False)
        self._live.start()

    def write(self, record: Record) -> None:
        line = Text(self._summary.line(record), style="cyan", no_wrap=True, overflow="ellipsis")
        self._live.update(line, refresh=True)

    def close(self) -> None:
        """Leave the last line where it is. May be called twice."""
        self._live.stop()


def terminal_sink(stream: TextIO) -> StatusLine | PlainLines:
    """A live line where `stream` is a terminal that can show one, else plain lines."""
    live = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return StatusLine(stream) if live else PlainLines(stream)


class StepSummary:
    """Records of train steps as lines of text; remembers the pace of the last few."""

    def __init__(self) -> None:
        self._step_s: deque[float] = deque(maxlen=_STEPS_FOR_ETA)

    def line(self, record: Record) -> str:
        """`step 3/20 | loss 0.4321 | tok/s sample 110 score 480 train 95 | queue 0 | staleness 1/2 | ETA 3m51s`.

        The bound of the staleness is shown where it is above 0, replicas (`num_samplers`, `num_teachers`) where a
        record has them.
        """
        if "policy_version" not in record:
            return " | ".join(f"{key} {_short(value)}" for key, value in record.items())
        done, last = record["policy_version"], record.get("max_steps")
        parts = [f"step {done}" if last is None else f"step {done}/{last}"]
        if "loss" in record:
            parts.append(f"loss {_short(record['loss'])}")
        if "reward_mean" in record:
            parts.append(f"reward {_short(record['reward_mean'])}")
        rates = [
            f"{role} {_rate(record[key])}"
            for role, key in (
                ("sample", "sampled_tokens_per_s"),
                ("score", "scored_tokens_per_s"),
                ("train", "trained_tokens_per_s"),
            )
            if key in record
        ]
        if rates:
            parts.append(f"tok/s {' '.join(rates)}")
        if "queue_depth" in record:
            parts.append(f"queue {_short(record['queue_depth'])}")
        if "staleness" in record:
            most = f"/{record['max_staleness']}" if record.get("max_staleness") else ""
            parts.append(f"staleness {_short(record['staleness'])}{most}")
        parts += [f"{role} {record[f'num_{role}']}" for role in ("samplers", "teachers") if f"num_{role}" in record]
        remaining = self._remaining_s(record)
        if remaining is not None:
            parts.append(f"ETA {duration(remaining)}")
        return " | ".join(parts)

    def _remaining_s(self, record: Record) -> float | None:
        step_s, last, done = record.get("step_s"), record.get("max_steps"), record.get("policy_version")
        if not isinstance(step_s, float | int) or not isinstance(last, int) or not isinstance(done, int):
            return None
        self._step_s.append(step_s)
        seconds = sum(self._step_s) / len(self._step_s) * max(last - done, 0)
        return seconds if math.isfinite(seconds) else None


def _ends_mid_line(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _plain(value: object) -> object:
    """The value as JSON has it: numpy scalars as Python's, numbers that are not finite as None."""
    item = getattr(value, "item", None)
    plain = item() if callable(item) else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rate(value: float | int | str) -> str:
    return f"{value:.0f}" if isinstance(value, float | int) else value


def duration(seconds: float) -> str:
    """`42s`, `3m51s`, `2h05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
