"""One frame: a fixed preamble, a msgpack header, raw array sections (floor F2).

    offset  bytes  field (integers little-endian, unsigned)
    0       8      magic 89 47 4B 44 57 0D 0A 1A
    8       4      format version
    12      4      header length H, bytes
    16      8      total length of the frame, bytes
    24      8      xxh3-64 of bytes 0-23 followed by bytes 32-end
    32      H      msgpack map {"header": ..., "sections": [[dtype, shape, offset, bytes], ...]}
    ...            zeros up to the next multiple of 64: the data area starts there
    ...            sections, little-endian, C order, each at the next multiple of 64, zeros between

There is one layout for a given header and list of arrays: offsets (counted from the data area) are stored and must be
exactly those. A frame ends with its last section. Whatever is wrong, decoding raises WireError with one of REASONS.

The checksum finds accidents, not forgery: whoever writes frames can seal anything. The strictness behind it keeps a
forged or foreign frame from becoming anything but a valid record or an error.
"""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from gkd_dist.array_faults import STRETCH_BYTES, stretches
from gkd_dist.errors import WireError
from gkd_dist.types import ByteArray
from gkd_dist.wire.header import MAX_HEADER_BYTES, pack_header, unpack_header

MAGIC = b"\x89GKDW\r\n\x1a"
"""As PNG's: a non-ASCII first byte and line ends that text-mode transfers change."""
FORMAT_VERSION = 1
ALIGNMENT_BYTES = 64
DEFAULT_MAX_FRAME_BYTES = 64 * 1024 * 1024
MAX_SECTIONS = 256
REASONS = frozenset(
    {
        "buffer",  # not a contiguous buffer, or one that cannot grow
        "truncated",  # shorter than it says
        "magic",
        "version",  # of the frame format
        "oversize",  # longer than max_bytes
        "trailing",  # longer than it says
        "checksum",
        "header",  # not the one msgpack map that is allowed
        "dtype",  # not in the allow-list
        "section",  # lengths, offsets, order or padding of the sections
        "kind",  # another record type than asked for
        "schema",  # of the record, not known
        "record",  # fields, lengths or types do not make the record
        "value",  # a number or text out of its range
    }
)
"""Every reason a WireError of this package carries; stable, fit for a metric label."""

Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]

_PREAMBLE = struct.Struct("<8sIIQQ")
_CHECKSUM = struct.Struct("<Q")
_CHECKSUM_OFFSET = _PREAMBLE.size - _CHECKSUM.size
_MAX_AXES = 4
_MAX_ELEMENTS = 1 << 48
_DTYPES = {
    name: np.dtype(name).newbyteorder("<") for name in ("int32", "int64", "uint8", "uint16", "float16", "float32")
}


@dataclass(frozen=True, slots=True)
class Section:
    """One array of a frame, given in pieces that are laid end to end while they are copied."""

    shape: tuple[int, ...]
    """Of the whole; its element count is that of all pieces."""
    pieces: Sequence[npt.NDArray[Any]]
    """At least one, all of one dtype."""
    check: Callable[[npt.NDArray[Any]], None] = lambda _: None
    """Called with each stretch of elements ([n]) right after it was copied; raises for what must not be sent."""


def encode_frame(
    header: dict[str, Any], arrays: Sequence[npt.NDArray[Any]], *, out: bytearray | None = None
) -> ByteArray:
    """[total] uint8: a frame with `header` and `arrays`.

    Args:
        header: what `wire/header.py` allows.
        arrays: of the allowed dtypes, at most 4 axes, in any memory layout; each is copied once.
        out: buffer to write into, grown when it is too small. The result is a view of it: it holds until the next frame
            is written there. None takes a fresh buffer, aligned to 64 bytes.

    Raises:
        WireError: `header`, `dtype` or `section` for what a frame cannot hold; `buffer` when `out` must grow while
            views of it are alive. What `out` holds then is no frame.
    """
    return write_frame(header, [Section(np.shape(array), (array,)) for array in arrays], out=out)


def write_frame(header: dict[str, Any], sections: Sequence[Section], *, out: bytearray | None = None) -> ByteArray:
    """`encode_frame` for arrays in pieces."""
    if len(sections) > MAX_SECTIONS:
        raise WireError("section", f"{len(sections)} sections, at most {MAX_SECTIONS} are allowed")
    table, data_bytes = _lay_out(sections)
    packed = pack_header({"header": header, "sections": table})
    header_end = _PREAMBLE.size + len(packed)
    data_start = _aligned(header_end)
    total = data_start + data_bytes if table else header_end
    frame = _buffer_of(total, out)
    _PREAMBLE.pack_into(frame.data, 0, MAGIC, FORMAT_VERSION, len(packed), total, 0)
    frame[_PREAMBLE.size : header_end] = np.frombuffer(packed, np.uint8)
    checksum = xxhash.xxh3_64(frame[:_CHECKSUM_OFFSET].data)
    summed, end = _PREAMBLE.size, header_end
    for section, (dtype, _, offset, num_bytes) in zip(sections, table, strict=True):
        start = data_start + offset
        frame[end:start] = 0
        end = start
        for stretch in _copied(section, frame[start : start + num_bytes].view(_DTYPES[dtype])):
            section.check(stretch)
            end += stretch.nbytes
            if end - summed >= STRETCH_BYTES:
                checksum.update(frame[summed:end].data)
                summed = end
    checksum.update(frame[summed:].data)
    _CHECKSUM.pack_into(frame.data, _CHECKSUM_OFFSET, checksum.intdigest())
    return frame


def decode_frame(
    buffer: Buffer, *, max_bytes: int = DEFAULT_MAX_FRAME_BYTES
) -> tuple[dict[str, Any], list[npt.NDArray[Any]]]:
    """The header and the arrays of the frame that `buffer` holds, all of it.

    Nothing is copied but the header: the arrays are read-only views of `buffer`, which they keep alive. One pass over
    the bytes for the checksum, otherwise the time does not depend on their number.

    Raises:
        WireError: for whatever is not exactly a frame of at most `max_bytes`.
    """
    data = _bytes_of(buffer)
    header_end = _check_preamble(data, max_bytes)
    header = unpack_header(data[_PREAMBLE.size : header_end].tobytes())
    if header.keys() != {"header", "sections"}:
        raise WireError("header", f"keys must be header and sections, got {sorted(header)[:8]}")
    user_header, table = header["header"], header["sections"]
    if type(user_header) is not dict or type(table) is not list:
        raise WireError("header", "header must be a map, and sections a list")
    if len(table) > MAX_SECTIONS:
        raise WireError("section", f"{len(table)} sections, at most {MAX_SECTIONS} are allowed")
    data_start = _aligned(header_end)
    arrays = []
    end = header_end
    for number, entry in enumerate(table):
        dtype, shape, offset, num_bytes = _check_entry(number, entry)
        start = _aligned(end)
        if data_start + offset != start:
            raise WireError("section", f"section {number} is at {offset}, must be at {start - data_start}")
        if start + num_bytes > data.size:
            raise WireError("section", f"section {number} runs beyond the end of the frame")
        if data[end:start].any():
            raise WireError("section", f"padding before section {number} is not zero")
        end = start + num_bytes
        arrays.append(data[start:end].view(dtype).reshape(shape))
    if end != data.size:
        raise WireError("section", f"{data.size - end} bytes belong to no section")
    return user_header, arrays


def _copied(section: Section, target: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """The stretches of `target` ([n]), each once it is written."""
    stop = 0
    for piece in section.pieces:
        start, stop = stop, stop + piece.size
        if not piece.size:
            continue
        if not piece.flags.c_contiguous:
            np.copyto(target[start:stop].reshape(piece.shape), piece, casting="no")
            yield target[start:stop]
            continue
        for to, taken in zip(stretches(target[start:stop]), stretches(piece.reshape(-1)), strict=True):
            np.copyto(to, taken, casting="no")
            yield to


def _lay_out(sections: Sequence[Section]) -> tuple[list[tuple[str, list[int], int, int]], int]:
    """Table entries (dtype, shape, offset, bytes) and the length of the data area."""
    table: list[tuple[str, list[int], int, int]] = []
    end = 0
    for section in sections:
        dtype = getattr(section.pieces[0], "dtype", None)
        name = next((name for name, allowed in _DTYPES.items() if allowed == dtype), None)
        if name is None:
            raise WireError("dtype", f"{dtype or type(section.pieces[0]).__name__} cannot be sent, use {list(_DTYPES)}")
        if len(section.shape) > _MAX_AXES:
            raise WireError("section", f"{len(section.shape)} axes, at most {_MAX_AXES} are allowed")
        if math.prod(section.shape) != sum(piece.size for piece in section.pieces):
            raise WireError("section", f"the pieces do not make the shape {section.shape}")
        start = _aligned(end)
        end = start + math.prod(section.shape) * _DTYPES[name].itemsize
        table.append((name, list(section.shape), start, end - start))
    return table, end


def _buffer_of(total: int, out: bytearray | None) -> ByteArray:
    if out is None:
        fresh = np.empty(total + ALIGNMENT_BYTES, np.uint8)
        skip = -fresh.ctypes.data % ALIGNMENT_BYTES
        return fresh[skip : skip + total]
    if len(out) < total:
        try:
            out.extend(bytes(total - len(out)))
        except BufferError as error:
            raise WireError("buffer", "out must grow: drop the views of the former frame first") from error
    return np.frombuffer(out, np.uint8, count=total)


def _bytes_of(buffer: Buffer) -> ByteArray:
    """[n] uint8 read-only view of `buffer`."""
    try:
        # Read-only for good: numpy's own flag could be set back.
        view = memoryview(buffer).toreadonly()  # type: ignore[arg-type]  # arrays are buffers, their stubs hide it
        if view.nbytes < _PREAMBLE.size:
            raise WireError("truncated", f"{view.nbytes} bytes, a frame has at least {_PREAMBLE.size}")
        if view.format != "B":
            raise WireError("buffer", f"need bytes, got items of format {view.format!r}")
        return np.frombuffer(view.cast("B"), np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise WireError("buffer", f"need a contiguous buffer of bytes: {error}") from error


def _check_preamble(data: ByteArray, max_bytes: int) -> int:
    """Where the header ends, after every check that needs no header."""
    magic, version, header_bytes, total, checksum = _PREAMBLE.unpack_from(data.data)
    if magic != MAGIC:
        raise WireError("magic", "this is not a frame")
    if version != FORMAT_VERSION:
        raise WireError("version", f"frame format {version}, this reader knows {FORMAT_VERSION}")
    if total > max_bytes:
        raise WireError("oversize", f"{total} bytes, at most {max_bytes} are allowed")
    if total > data.size:
        raise WireError("truncated", f"{data.size} bytes of {total}")
    if total < data.size:
        raise WireError("trailing", f"{data.size} bytes, the frame has {total}")
    header_end = _PREAMBLE.size + int(header_bytes)
    if header_bytes > MAX_HEADER_BYTES or header_end > total:
        raise WireError("header", f"{header_bytes} bytes, at most {min(MAX_HEADER_BYTES, total)} are possible")
    if checksum != _checksum(data):
        raise WireError("checksum", "the bytes are not those that were written")
    return header_end


def _check_entry(number: int, entry: object) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """dtype, shape, offset and byte length of one entry of the section table."""
    if type(entry) is not list or len(entry) != 4:
        raise WireError("section", f"section {number} must be [dtype, shape, offset, bytes]")
    name, shape, offset, num_bytes = entry
    if type(name) is not str or name not in _DTYPES:
        raise WireError("dtype", f"section {number}: {name!r:.40} is not one of {list(_DTYPES)}")
    if type(shape) is not list or len(shape) > _MAX_AXES:
        raise WireError("section", f"section {number}: the shape must be a list of at most {_MAX_AXES} lengths")
    if any(type(value) is not int or value < 0 for value in (*shape, offset, num_bytes)):
        raise WireError("section", f"section {number}: shape, offset and bytes must be integers from 0 on")
    # numpy limits the product of the lengths without the zeros among them
    if math.prod(max(length, 1) for length in shape) > _MAX_ELEMENTS:
        raise WireError("section", f"section {number}: shape {shape} is too large")
    if math.prod(shape) * _DTYPES[name].itemsize != num_bytes:
        raise WireError("section", f"section {number}: {name} {shape} does not take {num_bytes} bytes")
    return _DTYPES[name], tuple(shape), offset, num_bytes


def _checksum(frame: ByteArray) -> int:
    state = xxhash.xxh3_64(frame[:_CHECKSUM_OFFSET].data)
    state.update(frame[_PREAMBLE.size :].data)
    return int(state.intdigest())


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
