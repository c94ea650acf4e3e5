"""What `gkd report` does: reads runs and writes the page (floor F5)."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from gkd_dist.errors import ConfigError, RunError
from gkd_dist.runs.documents import on_disk, replace_file
from gkd_dist.runs.run_directory import RunDirectory


@on_disk()
def report(runs: Sequence[str], output_dir: Path, file: Path | None) -> int:
    """Writes the page and prints where it is; returns 0.

    Args:
        file: None is `report.html` in the directory of the first run.

    Raises:
        RunError: there is no such run, or the file cannot be written.
        ConfigError: one run is named twice, or more than can be told apart.
    """
    from gkd_dist.reports.page import page
    from gkd_dist.reports.run_view import read_run

    directories = [RunDirectory.find(run, output_dir) for run in runs]
    paths = [directory.path for directory in directories]
    twice = sorted({str(path) for path in paths if paths.count(path) > 1})
    if twice:
        raise ConfigError([f"{path}: named twice; name each run once" for path in twice])
    if len(directories) > MAX_RUNS:
        raise ConfigError([f"{len(directories)} runs cannot be told apart in one picture; name {MAX_RUNS} at most"])
    views = [read_run(directory) for directory in directories]
    names = [view.name for view in views]
    for view in views:
        if names.count(view.name) > 1:  # runs of one name below different folders
            view.name = f"{view.path.parent.name}/{view.name}"
    target = file or directories[0].path / "report.html"
    if target.is_dir():
        raise RunError(f"{target}: is a folder; give the name of a file")
    replace_file(target, page(views, datetime.now(UTC)))
    for view in views:
        for problem in view.problems:
            print(f"{view.name}: left out: {problem}")
    print(f"report: {target} ({target.stat().st_size / 1024:.0f} kB)")
    return 0


MAX_RUNS = 6
"""As many as the page has colours."""
