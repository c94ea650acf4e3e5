"""What `gkd list` does: the runs of a folder, or the jobs of a cluster."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gkd_dist.errors import RunError
from gkd_dist.metrics.console import print_table
from gkd_dist.operations.logs import outcome
from gkd_dist.runs.attempts import read_attempts
from gkd_dist.runs.documents import on_disk
from gkd_dist.runs.lock import holder_of, is_damaged
from gkd_dist.runs.moment import moment
from gkd_dist.runs.run_directory import RunDirectory


@on_disk()
def list_runs(output_dir: Path, address: str | None, *, as_json: bool) -> int:
    """Prints them, the oldest first; returns 0.

    Args:
        address: None: the runs below `output_dir`.

    Raises:
        ResourceError: no cluster answers at the address.
    """
    if address is not None:
        return _list_jobs(address, as_json=as_json)
    paths = [path for path in output_dir.glob("*") if (path / "config.yaml").is_file() and not path.is_symlink()]
    runs = [_run(RunDirectory(path.resolve())) for path in sorted(paths, key=lambda path: path.stat().st_mtime)]
    if as_json:
        print(json.dumps({"runs": runs, "jobs": []}))
    elif not runs:
        print(f"no runs below {output_dir}; `gkd run RECIPE` makes one")
    else:
        rows = [
            [
                str(run["run"]),
                str(run["state"]) + (f" ({run['problem']})" if run["problem"] else ""),
                str(run["attempts"]),
                _text(run["last_checkpoint"]),
            ]
            for run in runs
        ]
        print_table(sys.stdout, str(output_dir), ["run", "state", "attempts", "last checkpoint"], rows)
    return 0


def _list_jobs(address: str, *, as_json: bool) -> int:
    from gkd_dist.cluster.jobs import Jobs

    cluster = Jobs(address)
    jobs = [cluster.info(job.id) if job.state == "STOPPED" else job for job in cluster.all() if job.run]
    if as_json:
        print(json.dumps({"runs": [], "jobs": [asdict(job) for job in jobs]}))
    elif not jobs:
        print(f"no jobs of gkd at {cluster.address}; `gkd submit RECIPE` starts one")
    else:
        rows = [[job.id, job.run, outcome(job), moment(job.started_at or "-")] for job in jobs]
        print_table(sys.stdout, cluster.address, ["job", "run", "state", "started"], rows)
    return 0


def _run(directory: RunDirectory) -> dict[str, Any]:
    attempts = read_attempts(directory.attempts)
    return {
        "run": directory.name,
        "path": str(directory.path),
        "state": _state(directory, attempts[-1].how if attempts else None),
        "attempts": len(attempts),
        "last_checkpoint": directory.last_checkpoint,
        "problem": "its lock is damaged" if is_damaged(directory.lock) else None,
    }


def _state(directory: RunDirectory, how: str | None) -> str:
    try:
        is_held = holder_of(directory.lock) is not None
    except (OSError, RunError):  # said in its line; other runs have lines too
        return "unknown"
    if is_held:
        return "running"
    return "finished" if directory.is_finished else how or "killed"


def _text(value: object) -> str:
    return "-" if value is None else str(value)
