"""What holds for every test: property tests repeat exactly, GPU tests say why they do not run."""

import os
import subprocess

import pytest
from hypothesis import settings

# One process of tests joins many clusters, but Ray reads the token of the first one alone.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where `nvidia-smi -L` finds none."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_items and not _has_gpu():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU: `nvidia-smi -L` finds none"))


def _has_gpu() -> bool:
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False
