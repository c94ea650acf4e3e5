"""Where the time of a train step goes, told without waiting for the device."""

import time

import torch

Moment = float | torch.cuda.Event


class Stopwatch:
    """Seconds by part. On CUDA the device is asked when all of it is over: its work goes on meanwhile.

    watch = Stopwatch(device)
    hidden = forward()
    watch.lap("forward")   # what was begun since the last lap
    seconds = watch.seconds()
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._laps: list[tuple[str, Moment]] = []
        self._began = self._now()

    def lap(self, part: str) -> None:
        """What was begun since the last lap is of `part`; a part may have many."""
        self._laps.append((part, self._now()))

    def seconds(self) -> dict[str, float]:
        """By part, in the order of their first laps; waits for the device."""
        found: dict[str, float] = {}
        before = self._began
        for part, now in self._laps:
            found[part] = found.get(part, 0.0) + _between(before, now)
            before = now
        return found

    def _now(self) -> Moment:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _between(before: Moment, now: Moment) -> float:
    if isinstance(before, float) or isinstance(now, float):
        return float(now) - float(before)
    now.synchronize()
    return float(before.elapsed_time(now)) / 1e3
