"""Records of a data source: column dictionaries, each with the place it came from (floor F2).

A place is what an error message begins with: `train.jsonl:17`, `train.parquet: row 17`,
`openai/gsm8k[train]: row 17`; rows and lines count from 1.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gkd_dist.errors import DataError

Record = dict[str, Any]

FILE_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".ndjson", ".gz", ".parquet", ".csv", ".txt")
HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")


def records(path: str, split: str) -> Iterator[tuple[str, Record]]:
    """(place, columns) of each record of a file or hub data set.

    Args:
        path: a JSON lines file (`.gz` is decompressed), a `.parquet` file, or a hub name `NAME` or `NAME:CONFIG`.
        split: of a hub data set; files have none.

    Raises:
        DataError: no such file or data set, or something in it cannot be read.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError(f"data.path: {path} is a folder; name one .jsonl, .jsonl.gz or .parquet file in it")
    if file.exists():
        return _parquet_records(file) if file.suffix == ".parquet" else _json_lines(file)
    hub = HUB_NAME.fullmatch(path)
    if hub is None or path.startswith(".") or path.lower().endswith(FILE_SUFFIXES):
        raise DataError(f"data.path: no such file: {path}; relative paths start at {Path.cwd()}")
    return _hub_records(hub["name"], hub["config"], split)


def _json_lines(file: Path) -> Iterator[tuple[str, Record]]:
    opener = gzip.open if file.suffix == ".gz" else open
    place = str(file)
    try:
        with opener(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                place = f"{file}:{number}"
                if line.strip():
                    yield place, _json_object(line, place)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{place}: damaged gzip data ({error}); fetch or compress the file again") from error
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error.strerror or error}") from error


def _json_object(line: bytes, place: str) -> Record:
    try:
        value = json.loads(line.decode("utf-8-sig").rstrip())
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: not UTF-8 (byte {error.start + 1} of the line); convert the file to UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: not valid JSON: {error.msg} at column {error.colno}; the file must hold one JSON object per line"
        ) from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{place}: not a usable JSON object: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{place}: a row must be a JSON object, found {type(value).__name__}; one object per line")
    return value


def _parquet_records(file: Path) -> Iterator[tuple[str, Record]]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield f"{file}: row {number}", record
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file: {error}") from error


def _hub_records(name: str, config: str | None, split: str) -> Iterator[tuple[str, Record]]:
    import datasets

    try:
        rows = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data.path: {name} is not a file here, and the hub data set of that name (split {split!r}) could not be "
            f"loaded: {error}. Check the name, the split and the network, name a configuration as {name}:CONFIG, "
            "or download the data and give a .jsonl or .parquet file"
        ) from error
    for number, record in enumerate(rows, start=1):
        yield f"{name}[{split}]: row {number}", dict(record)
