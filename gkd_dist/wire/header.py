"""The msgpack header of a frame, read strictly (floor F2).

A header is a map with string keys that holds nil, booleans, int64, floats, UTF-8 strings, lists and maps. Nothing
else: no binary, no extension types, no timestamps. `unpack_header` walks the bytes before msgpack builds anything, so
a header that lies about lengths, nests deeply or holds a forbidden type costs no memory.
"""

from typing import Any

import msgpack

from gkd_dist.errors import WireError

MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_HEADER_ITEMS = 1 << 17
"""Keys and values together; bounds the Python objects that a header of small items can turn into."""
MAX_HEADER_DEPTH = 6
"""Maps and lists around an item, the header itself included."""

_LENGTH_BYTES = {0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
"""Strings, arrays and maps whose length follows the first byte."""
_SCALAR_BYTES = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8,
    0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip
"""nil, booleans, floats and integers: bytes after the first. Every first byte in no table is forbidden."""


def pack_header(header: dict[str, Any]) -> bytes:
    """The msgpack form of `header`.

    Raises:
        WireError: `header` when it holds something that `unpack_header` would refuse.
    """
    try:
        packed = bytes(msgpack.packb(header, use_bin_type=True, unicode_errors="strict"))
    except (ValueError, TypeError, OverflowError) as error:
        raise WireError("header", f"cannot be packed: {error}") from error
    unpack_header(packed)
    return packed


def unpack_header(packed: bytes) -> dict[str, Any]:
    """The header in `packed`, which must be exactly one map.

    Raises:
        WireError: `header`, with what is wrong.
    """
    if len(packed) > MAX_HEADER_BYTES:
        raise WireError("header", f"{len(packed)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    _check_structure(packed)
    try:
        header = msgpack.unpackb(packed, raw=False, strict_map_key=True, object_pairs_hook=_unique)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError("header", f"not valid msgpack: {error}") from error
    if type(header) is not dict:
        raise WireError("header", f"must be a map, got {type(header).__name__}")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise WireError("header", "a key appears twice")
    return result


def _check_structure(packed: bytes) -> None:
    """Walk all items of `packed` without building them."""
    due = [1]  # values still to come in each open container
    position = items = 0
    while due:
        if due[-1] == 0:
            due.pop()
            continue
        due[-1] -= 1
        items += 1
        children, position = _skip_item(packed, position)
        if children is not None:
            due.append(children)
        # What is due takes a byte each at least, so the claim of any container is checked before it is believed.
        if position > len(packed) or (children or 0) > len(packed) - position:
            raise WireError("header", "ends in the middle of an item")
        if len(due) - 1 > MAX_HEADER_DEPTH:
            raise WireError("header", f"nested deeper than {MAX_HEADER_DEPTH}")
        if items > MAX_HEADER_ITEMS:
            raise WireError("header", f"more than {MAX_HEADER_ITEMS} items")
    if position != len(packed):
        raise WireError("header", f"{len(packed) - position} bytes after its end")


def _skip_item(packed: bytes, position: int) -> tuple[int | None, int]:
    """How many items the container at `position` holds (None for a scalar), and where the next item starts."""
    if position >= len(packed):
        raise WireError("header", "ends in the middle of an item")
    first = packed[position]
    position += 1
    if first < 0x80 or first >= 0xE0:
        return None, position
    if first in _SCALAR_BYTES:
        if first == 0xCF and packed[position : position + 1] >= b"\x80":
            raise WireError("header", "an integer is beyond int64")
        return None, position + _SCALAR_BYTES[first]
    if first < 0xC0:
        length = first & (0x1F if first >= 0xA0 else 0x0F)
    elif first in _LENGTH_BYTES:
        width = _LENGTH_BYTES[first]
        length = int.from_bytes(packed[position : position + width], "big")
        position += width
    else:
        raise WireError("header", f"forbidden msgpack type 0x{first:02x} (binary, extension or reserved)")
    if 0xA0 <= first < 0xC0 or 0xD9 <= first <= 0xDB:
        return None, position + length
    is_map = first < 0x90 or first >= 0xDE
    return length * 2 if is_map else length, position
