"""Columns made of other columns (floor F2).

A `Record` is a column with one column per field, so that `schemas.py` is a table. The sections of inner columns have
paths below that of the outer one.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from gkd_dist.errors import WireError
from gkd_dist.wire.columns import Choice, Column, Real, Text
from gkd_dist.wire.message import MAX_ITEMS, MessageReader, MessageWriter


class Record:
    """Records of one class, field by field."""

    def __init__(self, cls: type, **fields: Column) -> None:
        self._cls = cls
        self._fields = fields

    def write(self, path: str, values: Sequence[Any], message: MessageWriter) -> None:
        for value in values:
            if type(value) is not self._cls:
                raise WireError("record", f"{path or 'message'}: {type(value).__name__} is not {self._cls.__name__}")
        for name, column in self._fields.items():
            column.write(_join(path, name), [getattr(value, name) for value in values], message)

    def read(self, path: str, count: int, message: MessageReader) -> list[Any]:
        columns = [column.read(_join(path, name), count, message) for name, column in self._fields.items()]
        return [self._make(path, row) for row in zip(*columns, strict=True)]

    def _make(self, path: str, row: tuple[Any, ...]) -> Any:
        try:
            return self._cls(**dict(zip(self._fields, row, strict=True)))
        except (ValueError, TypeError) as error:
            raise WireError("record", f"{path or self._cls.__name__}: {error}") from error


class Optional:
    """Values that may be None: a uint8 section of presence, and the values that are there."""

    def __init__(self, inner: Column) -> None:
        self._inner = inner

    def write(self, path: str, values: Sequence[Any], message: MessageWriter) -> None:
        message.put(f"{path}.present", np.array([value is not None for value in values], np.uint8))
        self._inner.write(path, [value for value in values if value is not None], message)

    def read(self, path: str, count: int, message: MessageReader) -> list[Any]:
        present = message.take(f"{path}.present", np.uint8, (count,))
        if present.size and present.max() > 1:
            raise WireError("value", f"{path}: presence must be 0 or 1")
        inner = iter(self._inner.read(path, int(present.sum()), message))
        return [next(inner) if there else None for there in present.tolist()]


class Many:
    """Tuples of values: an int64 section of counts, and all values."""

    def __init__(self, inner: Column) -> None:
        self._inner = inner

    def write(self, path: str, values: Sequence[Any], message: MessageWriter) -> None:
        if any(type(value) is not tuple for value in values):
            raise WireError("record", f"{path}: must be a tuple")
        counts = np.array([len(value) for value in values], np.int64)
        self._check(path, counts.tolist())
        message.put(f"{path}.count", counts)
        self._inner.write(path, [element for value in values for element in value], message)

    def read(self, path: str, count: int, message: MessageReader) -> list[Any]:
        counts = message.take(f"{path}.count", np.int64, (count,)).tolist()
        self._check(path, counts)
        return list(_groups(counts, self._inner.read(path, sum(counts), message)))

    def _check(self, path: str, counts: Sequence[int]) -> None:
        if any(number < 0 for number in counts) or sum(counts) > MAX_ITEMS:
            raise WireError("value", f"{path}: counts must not be negative, and add up to at most {MAX_ITEMS}")


class Mapping:
    """Dictionaries from names to floats."""

    def __init__(self) -> None:
        self._keys = Many(Text())
        self._numbers = Real()

    def write(self, path: str, values: Sequence[Any], message: MessageWriter) -> None:
        if any(type(value) is not dict for value in values):
            raise WireError("record", f"{path}: must be a dict")
        self._keys.write(f"{path}.keys", [tuple(value) for value in values], message)
        self._numbers.write(path, [number for value in values for number in value.values()], message)

    def read(self, path: str, count: int, message: MessageReader) -> list[dict[str, float]]:
        keys = self._keys.read(f"{path}.keys", count, message)
        counts = [len(group) for group in keys]
        numbers = _groups(counts, self._numbers.read(path, sum(counts), message))
        result = [dict(zip(*pair, strict=True)) for pair in zip(keys, numbers, strict=True)]
        if [len(value) for value in result] != counts:
            raise WireError("record", f"{path}: a key appears twice")
        return result


class OneOf:
    """Values of several kinds: a `Choice` section with the kind of each, then the values kind by kind.

    Args:
        kind_of: the name of a value's variant; raises WireError for what cannot be sent.
        variants: their columns.
    """

    def __init__(self, kind_of: Callable[[Any], str], **variants: Column) -> None:
        self._kind_of = kind_of
        self._variants = variants
        self._kinds = Choice(tuple(variants))

    def write(self, path: str, values: Sequence[Any], message: MessageWriter) -> None:
        kinds = [self._kind_of(value) for value in values]
        self._kinds.write(_join(path, "kind"), kinds, message)
        for name, column in self._variants.items():
            chosen = [value for value, kind in zip(values, kinds, strict=True) if kind == name]
            column.write(_join(path, name), chosen, message)

    def read(self, path: str, count: int, message: MessageReader) -> list[Any]:
        kinds = self._kinds.read(_join(path, "kind"), count, message)
        values = {
            name: iter(column.read(_join(path, name), kinds.count(name), message))
            for name, column in self._variants.items()
        }
        return [next(values[kind]) for kind in kinds]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _groups(counts: Sequence[int], values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    for start, stop in pairwise(accumulate(counts, initial=0)):
        yield tuple(values[start:stop])
