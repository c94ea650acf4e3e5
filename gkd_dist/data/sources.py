"""Records of a data source: column dictionaries, each with the place it came from (floor F2).

A place is what an error message begins with: `train.jsonl:17`, `train.parquet: row 17`,
`openai/gsm8k[train]: row 17`; rows and lines count from 1.
"""

import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gkd_dist.data.faults import Faults
from gkd_dist.errors import DataError, plain

Record = dict[str, Any]

FILE_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".ndjson", ".gz", ".parquet", ".csv", ".txt")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


def is_missing(path: str) -> bool:
    """Whether it is neither here nor what a hub data set could be called."""
    hub = _HUB_NAME.fullmatch(path)
    is_named = hub is not None and not path.startswith(".") and not path.lower().endswith(FILE_SUFFIXES)
    return not is_named and not Path(path).expanduser().exists()


def no_such_file(path: str, key: str) -> str:
    """In words."""
    return f"{key}: no such file: {path}; relative paths start at {Path.cwd()}"


def records(path: str, split: str, key: str = "data.path") -> Iterator[tuple[str, Record]]:
    """(place, columns) of each record of a file or hub data set.

    Args:
        path: a JSON lines file (`.gz` is decompressed), a `.parquet` file, or a hub name `NAME` or `NAME:CONFIG`.
        split: of a hub data set; files have none.
        key: that names it in the configuration, for messages.

    Raises:
        DataError: no such file or data set, or something in it cannot be read.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError(f"{key}: {path} is a folder; name one .jsonl, .jsonl.gz or .parquet file in it")
    if file.exists():
        return _parquet_records(file) if file.suffix == ".parquet" else _json_lines(file)
    if is_missing(path):
        raise DataError(no_such_file(path, key))
    name, _, config = path.partition(":")
    return _hub_records(name, config or None, split, key)


def _json_lines(file: Path) -> Iterator[tuple[str, Record]]:
    opener = gzip.open if file.suffix == ".gz" else open
    place = str(file)
    try:
        with opener(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                place = f"{file}:{number}"
                if not line.strip():
                    continue
                try:
                    record = _json_object(line, place)
                except DataError as error:
                    raise DataError(str(_faults(str(error), lines, file, number))) from error
                yield place, record
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{place}: damaged gzip data ({error}); fetch or compress the file again") from error
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error.strerror or error}") from error


def _faults(first: str, lines: Iterable[bytes], file: Path, number: int) -> Faults:
    """What is wrong with line `number`, `first`, and with those behind it."""
    faults = Faults()
    faults.add(first)
    for later, line in enumerate(lines, start=number + 1):
        try:
            if line.strip():
                _json_object(line, f"{file}:{later}")
        except DataError as error:
            faults.add(str(error))
    return faults


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


def _hub_records(name: str, config: str | None, split: str, key: str) -> Iterator[tuple[str, Record]]:
    import datasets

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells every retry; what came of it is told below
    try:
        rows = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{key}: {name} is not a file here, and the hub data set of that name (split {split!r}) could not be "
            f"loaded: {plain(error)}. Check the name, the split and the network, name a configuration as "
            f"{name}:CONFIG, or download the data and give a .jsonl or .parquet file"
        ) from error
    for number, record in enumerate(rows, start=1):
        yield f"{name}[{split}]: row {number}", dict(record)
