"""What `gkd rows` does, from a configuration to an exit code (floor F5)."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from gkd_dist.config.run import RunConfig
from gkd_dist.data.readers import read_rows
from gkd_dist.data.rows import Row
from gkd_dist.disk import write_whole


def rows(config: RunConfig, output: Path | None) -> int:
    """The rows of a recipe's data as JSON lines of `prompt` and `completion`, templates applied; returns 0.

    Args:
        output: None prints them.

    Raises:
        DataError: they cannot be read.
    """
    lines = [f"{json.dumps(_columns(row), ensure_ascii=False)}\n" for row in read_rows(config.data).rows]
    if output is None:
        sys.stdout.writelines(lines)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, "".join(lines).encode())
        print(f"{len(lines)} rows in {output}")
    return 0


def _columns(row: Row) -> dict[str, object]:
    prompt = row.prompt if isinstance(row.prompt, str) else [asdict(message) for message in row.prompt]
    return {"prompt": prompt} | ({} if row.completion is None else {"completion": row.completion})
