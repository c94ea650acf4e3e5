"""What `gkd rows` does, from a configuration to an exit code (floor F5)."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gkd_dist.config.run import RunConfig
from gkd_dist.data.readers import read_rows
from gkd_dist.data.rows import Row
from gkd_dist.disk import write_whole
from gkd_dist.errors import ConfigError
from gkd_dist.preparation.output_file import output_problems


def rows(config: RunConfig, output: Path | None, held_out: Path | None = None) -> int:
    """The rows of a recipe's data as JSON lines of `prompt` and `completion`, templates applied; returns 0.

    Args:
        output: None prints them.
        held_out: a file for the first `data.num_held_out` rows, which are then not in `output`, nor are rows with
            the same prompt: a test split. None: all rows are in `output`.

    Raises:
        ConfigError: a file cannot be written or would take the rows of another one away, or nothing is left for
            `output`.
        DataError: they cannot be read.
    """
    problems = output_problems(output, "--output", {"--held-out": held_out, "data.path": config.data.path})
    problems += output_problems(held_out, "--held-out", {"data.path": config.data.path})
    if problems:
        raise ConfigError(problems)
    found: Sequence[Row] = read_rows(config.data).rows
    if held_out is not None:
        apart, found = found[: config.data.num_held_out], found[config.data.num_held_out :]
        prompts = {row.prompt for row in apart}
        kept = [row for row in found if row.prompt not in prompts]
        if not kept:
            raise ConfigError(["data.num_held_out: leaves no row that is not held out; lower it"])
        _write(apart, held_out, "")
        found, dropped = kept, len(found) - len(kept)
        told = f", {dropped} left out because their prompts are held out" if dropped else ""
        return _write(found, output, told)
    return _write(found, output, "")


def _write(found: Sequence[Row], output: Path | None, told: str) -> int:
    lines = [f"{json.dumps(_columns(row), ensure_ascii=False)}\n" for row in found]
    if output is None:
        sys.stdout.writelines(lines)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, "".join(lines).encode())
        print(f"{len(lines)} rows in {output}{told}")
    return 0


def _columns(row: Row) -> dict[str, object]:
    prompt: object = row.prompt if isinstance(row.prompt, str) else [asdict(message) for message in row.prompt]
    return {"prompt": prompt, **({} if row.completion is None else {"completion": row.completion})}
