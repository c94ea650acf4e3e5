"""Whether a file that a command will write can be written, and takes nothing away (floor F5)."""

from collections.abc import Mapping
from pathlib import Path

from gkd_dist.errors import ConfigError
from gkd_dist.runs.run_directory import check_output_dir


def output_problems(file: Path | None, key: str, others: Mapping[str, Path | str | None]) -> list[str]:
    """One line for each thing that is wrong with `file`; nothing is written.

    Args:
        file: None: nothing is to be written.
        key: that names it on the command line.
        others: what the command reads, or writes too, by key. Names of hub data sets may be among them.
    """
    if file is None:
        return []
    problems = [
        f"{key}: {file} is also {other}, whose rows would be lost; choose another file"
        for other, path in others.items()
        if path is not None and _is_same(file, Path(path).expanduser())
    ]
    if file.exists() and not file.is_file():
        return [*problems, f"{key}: {file} is {'a folder' if file.is_dir() else 'no plain file'}; name a file"]
    try:
        check_output_dir(file.absolute().parent)
    except ConfigError as error:
        problems += [problem.replace("output_dir: ", f"{key}: ") for problem in error.problems]
    return problems


def _is_same(one: Path, other: Path) -> bool:
    """Also by a link, and where neither is there yet."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
