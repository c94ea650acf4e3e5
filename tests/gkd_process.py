"""The command `gkd` in processes of its own: started, broken at fault points, waited for, and looked after."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from gkd_dist.runs.run_directory import RunDirectory
from tests.processes import kill_all

REPOSITORY = Path(__file__).parents[1]
LIMIT_S = 120.0
"""For anything that takes seconds on a quiet machine."""


class GkdProcess:
    """One command line, in a session of its own: whatever it starts can be found there.

    Args:
        log: receives what it prints.
        witnesses: folder in which fault points leave their mark.
        faults: value of `GKD_FAULTS`.
    """

    def __init__(
        self, arguments: Sequence[str], log: Path, witnesses: Path, faults: str, environment: dict[str, str]
    ) -> None:
        self.log = log
        self._witnesses = witnesses
        environment = os.environ | environment | {"GKD_FAULTS_WITNESS": str(witnesses), "PYTHONPATH": str(REPOSITORY)}
        if faults:
            environment["GKD_FAULTS"] = faults
        environment.pop("RAY_AUTH_MODE", None)  # of the tests' own process alone
        with log.open("w") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gkd_dist", *arguments],
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                env=environment,
            )
        self.pid = self._process.pid

    @property
    def said(self) -> str:
        return self.log.read_text()

    def until(self, condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
        """Wait for it; the process must live until then, and the limit bounds the wait."""
        end = time.monotonic() + limit_s
        while not condition():
            assert self._process.poll() is None, f"ended with {self._process.returncode}:\n{self.said}"
            assert time.monotonic() < end, self.said
            time.sleep(0.02)

    def until_said(self, text: str) -> None:
        self.until(lambda: text in self.said)

    def until_fired(self, fault: str) -> None:
        """Until the entry `NAME:ACTION@HIT` of the faults has fired."""
        self.until(lambda: self.fired(fault) is not None)

    def fired(self, fault: str) -> int | None:
        """Pid of the process in which the entry fired; None where it did not."""
        place, _, rest = fault.partition(":")
        action, _, hit = rest.partition("@")
        witness = self._witnesses / f"{place}.{action}.{hit or 1}"
        return int(witness.read_text() or 0) if witness.exists() else None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self, limit_s: float = LIMIT_S) -> int:
        """Exit code, negative for a signal; waits for it, and then for everything that it had started."""
        try:
            code = self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {limit_s:.0f} s:\n{self.said}") from None
        end = time.monotonic() + LIMIT_S
        while left := self.family():
            assert time.monotonic() < end, [each.cmdline() for each in left]
            time.sleep(0.05)
        return code

    def family(self, title: str = "") -> list[psutil.Process]:
        """Living processes of the session whose command line contains `title`, but for Ray's two agents: they end by
        themselves up to a minute after a cluster that was killed."""
        found = []
        for process in psutil.process_iter():
            try:
                words = " ".join(process.cmdline()).strip()  # titles that Ray sets are padded
                if (
                    os.getsid(process.pid) == self.pid
                    and process.status() != psutil.STATUS_ZOMBIE
                    and title in words
                    and not (words.startswith("ray::") and words.endswith("Agent"))
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        return found

    def end(self) -> None:
        """Whatever is left of it."""
        kill_all(self.family())
        self._process.kill()
        self._process.wait(LIMIT_S)


class Runs:
    """Runs of one recipe below one folder; every command goes on with what the one before it began.

    Args:
        arguments: of the command, but for `output_dir`.
    """

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self.folder = folder
        self.output = folder / "runs"
        self.witnesses = folder / "witnesses"
        self.witnesses.mkdir(parents=True)
        self._arguments = arguments
        self._started: list[GkdProcess] = []

    def of(self, recipe: str) -> "Runs":
        """The same of another recipe, from here on."""
        self._arguments = [recipe, *self._arguments[1:]]
        return self

    def start(self, *overrides: str, faults: str = "", **environment: str) -> GkdProcess:
        """Later overrides win."""
        process = GkdProcess(
            ["run", *self._arguments, f"output_dir={self.output}", *overrides],
            self.folder / f"log-{len(self._started)}",
            self.witnesses,
            faults,
            {"GKD_CACHE_DIR": str(self.folder / "cache")} | environment,
        )
        self._started.append(process)
        return process

    def ends(self, code: int, *overrides: str, faults: str = "", limit_s: float = LIMIT_S) -> GkdProcess:
        """Run to the end, which must be this one, through every fault that was asked for; nothing may be left."""
        process = self.start(*overrides, faults=faults)
        assert process.ended(limit_s) == code, process.said
        for fault in filter(None, faults.split(";")):
            assert process.fired(fault), f"{fault} did not fire:\n{process.said}"
        return process

    def dies(self, fault: str, *overrides: str) -> GkdProcess:
        """The whole process is killed at a fault point; nothing may be left."""
        process = self.ends(-signal.SIGKILL, *overrides, faults=fault)
        assert process.fired(fault) == process.pid
        return process

    @property
    def directory(self) -> RunDirectory:
        """Of the newest run."""
        return RunDirectory((self.output / "latest").resolve())

    @property
    def steps(self) -> dict[int, dict[str, Any]]:
        """What the newest run recorded of each step; of one that was trained again, the last time."""
        lines = self.directory.metrics.read_text().splitlines()
        return {record["step"]: record for record in map(json.loads, lines)}

    @property
    def losses(self) -> list[float]:
        steps = self.steps
        return [steps[step]["loss"] for step in sorted(steps)]

    @property
    def student(self) -> bytes:
        """The trained weights, as they are on disk."""
        return (self.directory.final / "model.safetensors").read_bytes()

    def end(self) -> None:
        """Whatever is left of all commands."""
        for process in self._started:
            process.end()


def equal(one: Runs, other: Runs) -> bool:
    """Whether two runs did the same, bit for bit."""
    return one.losses == other.losses and one.student == other.student
