"""What the columns of one message are written to and read from (floor F2).

A message is a frame whose header names its record kind, schema version, record count and columns. A column puts its
numbers into array sections and its texts and floats into `values` of the header; both are found by the path of the
field (`trajectory.prompt_ids`). The set and the order of the paths are fixed by the schema.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gkd_dist.errors import WireError
from gkd_dist.types import ByteArray
from gkd_dist.wire.frames import Buffer, Section, decode_frame, write_frame

MAX_ITEMS = 1 << 17
"""Records in a message, and entries in any of its lists: bounds the Python objects that a small frame can turn into."""

Values = list[str] | list[float]

_HEADER_KEYS = {"kind", "schema", "count", "sections", "values"}


@dataclass(slots=True)
class MessageWriter:
    """Collects the columns of one message."""

    paths: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    values: dict[str, Values] = field(default_factory=dict)

    def put(self, path: str, array: npt.NDArray[Any]) -> None:
        """Add a section."""
        self.put_section(path, Section(array.shape, (array,)))

    def put_section(self, path: str, section: Section) -> None:
        self.paths.append(path)
        self.sections.append(section)

    def put_values(self, path: str, values: Values) -> None:
        self.values[path] = values

    def frame(self, kind: str, schema: int, count: int, out: bytearray | None) -> ByteArray:
        header = {"kind": kind, "schema": schema, "count": count, "sections": self.paths, "values": self.values}
        return write_frame(header, self.sections, out=out)


class MessageReader:
    """Gives the columns of one message back, in the order in which they were written.

    Raises:
        WireError: from every method, when the message is not what the schema says.
    """

    def __init__(self, buffer: Buffer, max_bytes: int) -> None:
        header, arrays = decode_frame(buffer, max_bytes=max_bytes)
        if header.keys() != _HEADER_KEYS:
            raise WireError("header", f"keys must be {sorted(_HEADER_KEYS)}, got {sorted(header)[:8]}")
        self._kind, self._schema, self._count, paths, self._values = (
            header[key] for key in ("kind", "schema", "count", "sections", "values")
        )
        if type(paths) is not list or type(self._values) is not dict:
            raise WireError("header", "sections must be a list of paths, and values a map")
        if len(paths) != len(arrays):
            raise WireError("section", f"{len(paths)} paths for {len(arrays)} sections")
        self._remaining = list(zip(paths, arrays, strict=True))[::-1]

    def expect(self, kind: str, schema: int) -> int:
        """The record count, once kind and schema version are the expected ones."""
        if self._kind != kind:
            raise WireError("kind", f"holds {self._kind!r:.40}, expected {kind!r}")
        if type(self._schema) is not int or self._schema != schema:
            raise WireError("schema", f"{kind} version {self._schema!r:.20}, this reader knows {schema}")
        if type(self._count) is not int or not 1 <= self._count <= MAX_ITEMS:
            raise WireError("record", f"record count must be an integer from 1 to {MAX_ITEMS}")
        return self._count

    def take(self, path: str, dtype: npt.DTypeLike, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
        """The next section, which must have this path, dtype and shape (None: any length)."""
        if not self._remaining:
            raise WireError("section", f"{path} is missing")
        found, array = self._remaining.pop()
        if found != path:
            raise WireError("section", f"expected {path}, found {found!r:.80}")
        fits = len(array.shape) == len(shape) and all(
            want is None or have == want for have, want in zip(array.shape, shape, strict=True)
        )
        if array.dtype != np.dtype(dtype) or not fits:
            raise WireError("section", f"{path} is {array.dtype} {array.shape}, must be {np.dtype(dtype)} {shape}")
        return array

    def take_values(self, path: str, value_type: type) -> list[Any]:
        """The values of `path`, all of exactly this type."""
        values = self._values.pop(path, None)
        if type(values) is not list or any(type(value) is not value_type for value in values):
            raise WireError("record", f"{path} must be a list of {value_type.__name__}")
        return values

    def finish(self) -> None:
        """Nothing may be left."""
        left: Sequence[str] = [str(path)[:80] for path, _ in self._remaining] + list(self._values)[:8]
        if left:
            raise WireError("record", f"unknown fields: {left[:8]}")
