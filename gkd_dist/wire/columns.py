"""Columns: how one field of many records is written and read (floor F2).

A column turns the values of a field, taken from all records of a message, into a few sections, and back. Those made of
other columns are in `nesting.py`. Both directions make the same checks and raise WireError with the path of the field:
`value` for a number or text out of its range, `record` for what does not make a record, `section` for a section of the
wrong type or length.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from math import isfinite
from operator import index
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gkd_dist.array_faults import stretches
from gkd_dist.errors import WireError
from gkd_dist.wire.frames import Section
from gkd_dist.wire.message import MessageReader, MessageWriter

MAX_TEXT_LENGTH = 1024
_INT64_MAX = (1 << 63) - 1
_MAX_LENGTH = (1 << 31) - 1
"""Of one axis of one array; the product of two fits an int64."""


class Column(Protocol):
    """One field of many records."""

    def write(self, path: str, values: Sequence[Any], message: MessageWriter) -> None: ...

    def read(self, path: str, count: int, message: MessageReader) -> list[Any]:
        """Exactly `count` values."""
        ...


class Integer:
    """Integers in [minimum, maximum], as one int64 section."""

    def __init__(self, minimum: int = 0, maximum: int = _INT64_MAX) -> None:
        self._minimum, self._maximum = minimum, maximum

    def write(self, path: str, values: Sequence[Any], message: MessageWriter) -> None:
        try:
            numbers = np.array([index(value) for value in values], np.int64)
        except (TypeError, OverflowError) as error:
            raise WireError("value", f"{path}: {error}") from error
        self._check(path, numbers)
        message.put(path, numbers)

    def read(self, path: str, count: int, message: MessageReader) -> list[int]:
        numbers = message.take(path, np.int64, (count,))
        self._check(path, numbers)
        return [int(number) for number in numbers.tolist()]

    def _check(self, path: str, numbers: npt.NDArray[np.int64]) -> None:
        if numbers.size and not self._minimum <= numbers.min() <= numbers.max() <= self._maximum:
            raise WireError("value", f"{path}: must be from {self._minimum} to {self._maximum}")


class Real:
    """Floats, as float64 in the header.

    Args:
        finite: refuse NaN and infinities.
    """

    def __init__(self, *, finite: bool = True) -> None:
        self._finite = finite

    def write(self, path: str, values: Sequence[Any], message: MessageWriter) -> None:
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError, OverflowError) as error:
            raise WireError("value", f"{path}: {error}") from error
        self._check(path, numbers)
        message.put_values(path, numbers)

    def read(self, path: str, count: int, message: MessageReader) -> list[float]:
        numbers = message.take_values(path, float)
        if len(numbers) != count:
            raise WireError("record", f"{path}: {len(numbers)} values for {count} records")
        self._check(path, numbers)
        return numbers

    def _check(self, path: str, numbers: Sequence[float]) -> None:
        if self._finite and not all(isfinite(number) for number in numbers):
            raise WireError("value", f"{path}: must be finite")


def is_name(text: str) -> bool:
    """Whether `text` can stand in an id, a label or a log line."""
    return 0 < len(text) <= MAX_TEXT_LENGTH and text.isprintable()


class Text:
    """Texts: each different one once in the header, and an int32 section that points to them.

    Args:
        valid: what a text must fulfil.
    """

    def __init__(self, valid: Callable[[str], bool] = is_name) -> None:
        self._valid = valid

    def write(self, path: str, values: Sequence[Any], message: MessageWriter) -> None:
        places: dict[str, int] = {}
        for value in values:
            if not isinstance(value, str) or not self._valid(value):
                raise WireError("value", f"{path}: {value!r:.80} is not allowed")
            places.setdefault(str(value), len(places))
        message.put_values(path, list(places))
        message.put(path, np.array([places[value] for value in values], np.int32))

    def read(self, path: str, count: int, message: MessageReader) -> list[str]:
        texts = message.take_values(path, str)
        for text in texts:
            if not self._valid(text):
                raise WireError("value", f"{path}: {text!r:.80} is not allowed")
        places = message.take(path, np.int32, (count,)).tolist()
        if len(set(texts)) != len(texts) or set(places) != set(range(len(texts))):
            raise WireError("record", f"{path}: each text must stand there once, and be used")
        return [texts[place] for place in places]


class Choice:
    """Members of a fixed set of texts (of an enum, say), written as `Text`."""

    def __init__(self, choices: Sequence[str]) -> None:
        self._choices: dict[object, str] = {str(choice): choice for choice in choices}
        self._text = Text(self._choices.__contains__)

    def write(self, path: str, values: Sequence[Any], message: MessageWriter) -> None:
        for value in values:
            if not isinstance(value, str) or type(value) is not type(self._choices.get(value)):
                raise WireError("value", f"{path}: {value!r:.80} is not one of {list(self._choices.values())}")
        self._text.write(path, values, message)

    def read(self, path: str, count: int, message: MessageReader) -> list[str]:
        return [self._choices[text] for text in self._text.read(path, count, message)]


class Array:
    """Arrays of one dtype: their shapes as an int64 section, their elements end to end in another.

    Reading gives views of the latter.

    Args:
        dtype: of every array.
        num_axes: of every array, 1 or 2.
        problem: says what is wrong with the elements, or None.
    """

    def __init__(
        self, dtype: type[np.generic], num_axes: int, problem: Callable[[npt.NDArray[Any]], str | None]
    ) -> None:
        self._dtype = np.dtype(dtype)
        self._num_axes = num_axes
        self._problem = problem

    def write(self, path: str, values: Sequence[Any], message: MessageWriter) -> None:
        for value in values:
            if not isinstance(value, np.ndarray) or value.dtype != self._dtype or value.ndim != self._num_axes:
                raise WireError("record", f"{path}: must be {self._dtype} arrays with {self._num_axes} axes")
        shapes = np.array([value.shape for value in values], np.int64).reshape(len(values), self._num_axes)
        message.put(f"{path}.shape", shapes)
        pieces = (np.empty(0, self._dtype), *values)
        length = sum(value.size for value in values)
        message.put_section(path, Section((length,), pieces, lambda stretch: self._check(path, stretch)))

    def read(self, path: str, count: int, message: MessageReader) -> list[npt.NDArray[Any]]:
        shapes = message.take(f"{path}.shape", np.int64, (count, self._num_axes))
        flat = message.take(path, self._dtype, (None,))
        if shapes.size and not 0 <= shapes.min() <= shapes.max() <= _MAX_LENGTH:
            raise WireError("section", f"{path}: lengths must be from 0 to {_MAX_LENGTH}")
        stops = list(accumulate(shapes.prod(axis=1).tolist(), initial=0))
        if stops[-1] != flat.size:
            raise WireError("section", f"{path}: lengths add up to {stops[-1]}, there are {flat.size} elements")
        for stretch in stretches(flat):
            self._check(path, stretch)
        pieces = [flat[start:stop] for start, stop in pairwise(stops)]
        if self._num_axes == 1:
            return pieces
        return [piece.reshape(shape) for piece, shape in zip(pieces, shapes.tolist(), strict=True)]

    def _check(self, path: str, elements: npt.NDArray[Any]) -> None:
        if elements.size and (problem := self._problem(elements)) is not None:
            raise WireError("value", f"{path}: {problem}")
