"""What `gkd scale` does: asks a running job for other numbers of replicas, and waits for them (floor F5)."""

import time
from collections.abc import Mapping
from pathlib import Path

from gkd_dist.runs.control import Target, await_target
from gkd_dist.runs.control import scale as ask
from gkd_dist.runs.documents import on_disk, read_intact
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.runs.status import Status


@on_disk()
def scale(
    run: str,
    output_dir: Path,
    *,
    samplers: int | None,
    teachers: int | Mapping[str, int] | None,
    timeout_s: float | None,
) -> int:
    """Prints the replicas that serve now and those that are asked for; returns 0.

    Args:
        timeout_s: how long to wait for them; None returns once they are asked for.

    Raises:
        RunError: no such run, or it does not run.
        ConfigError: numbers that it does not allow.
        DeadlineError: they are not there in time.
    """
    directory = RunDirectory.find(run, output_dir)
    before = read_intact(directory.status, Status)
    request = ask(directory, samplers=samplers, teachers=teachers)
    for line in _changes(before, request):
        print(f"{directory.name}: {line}", flush=True)
    if timeout_s is None:
        print(f"asked; see `gkd status {directory.path}`")
        return 0
    began = time.monotonic()
    await_target(
        directory, request, timeout_s=timeout_s, say=lambda line: print(f"{directory.name}: {line}", flush=True)
    )
    print(f"all of them serve, after {time.monotonic() - began:.1f} s")
    return 0


def _changes(status: Status | None, request: Target) -> list[str]:
    """`samplers 2 -> 3`, one line per role, or `samplers 2 of 4 -> 3` where fewer serve than were asked for; `?` where
    the run has said nothing yet."""
    lines = []
    for name, number in request.roles.items():
        role = None if status is None else status.role(name)
        asked = "" if role is None or role.num_serving == role.target else f" of {role.target}"
        lines.append(f"{name} {'?' if role is None else role.num_serving}{asked} -> {number}")
    return lines
