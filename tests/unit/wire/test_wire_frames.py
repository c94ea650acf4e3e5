"""Frames are read exactly or refused with a known reason."""

import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from wire_examples import forge, golden_records, same, seal

from gkd_dist.errors import WireError
from gkd_dist.targets import HiddenTargets
from gkd_dist.types import Trajectory
from gkd_dist.wire.codec import decode, decode_targets, encode
from gkd_dist.wire.frames import REASONS, decode_frame, encode_frame
from gkd_dist.wire.header import MAX_HEADER_BYTES

DTYPES = ("int32", "int64", "uint8", "uint16", "float16", "float32")


def small_frame() -> bytes:
    return encode_frame({"a": [1, "x"]}, [np.arange(5, dtype=np.int32), np.ones((2, 3), np.float32)]).tobytes()


def reason_of(buffer: Any, **limits: int) -> str:
    with pytest.raises(WireError) as caught:
        decode_frame(buffer, **limits)
    assert caught.value.reason in REASONS
    return caught.value.reason


def table_of(*entries: Any) -> bytes:
    return bytes(msgpack.packb({"header": {}, "sections": list(entries)}))


def arrays() -> st.SearchStrategy[np.ndarray]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    return hnp.arrays(st.sampled_from(DTYPES), shapes)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
    max_leaves=8,
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=5), json_like.filter(lambda v: depth(v) <= 4), max_size=4), st.lists(arrays()))
@example({}, [])
@example({"x": 2**63 - 1, "y": -(2**63), "z": "a" * 70_000}, [])
def test_frames_come_back_as_views(header: dict[str, Any], given_arrays: list[np.ndarray]) -> None:
    frame = encode_frame(header, given_arrays)
    found_header, found = decode_frame(frame)
    assert found_header == header
    assert same(found, [np.ascontiguousarray(array).reshape(array.shape) for array in given_arrays])
    for array in found:
        assert not array.flags.writeable
        assert array.ctypes.data % 64 == 0 or array.size == 0
        assert np.shares_memory(array, frame) or array.size == 0


@pytest.mark.parametrize("convert", [bytes, bytearray, memoryview, lambda frame: np.frombuffer(frame, np.uint8)])
def test_any_buffer_is_read_without_a_copy(convert: Callable[[bytes], Any]) -> None:
    buffer = convert(small_frame())
    for array in decode_frame(buffer)[1]:
        assert np.shares_memory(array, np.frombuffer(buffer, np.uint8))
        with pytest.raises(ValueError):
            array.flags.writeable = True


def test_strided_arrays_are_written_in_c_order() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    found = decode_frame(encode_frame({}, [array[::2, ::-1], array.T]))[1]
    assert np.array_equal(found[0], array[::2, ::-1])
    assert np.array_equal(found[1], array.T)


def test_out_grows_and_is_reused() -> None:
    out = bytearray()
    encode_frame({}, [np.zeros(100, np.uint8)], out=out)
    size = len(out)
    frame = encode_frame({}, [np.ones(10, np.uint8)], out=out)
    assert len(out) == size
    assert frame.tobytes() == encode_frame({}, [np.ones(10, np.uint8)]).tobytes()
    with pytest.raises(WireError, match="buffer: out must grow"):
        encode_frame({}, [np.zeros(1000, np.uint8)], out=out)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, np.float64),
        np.zeros(3, bool),
        np.zeros(3, ">i4"),
        np.zeros(3, "S4"),
        np.zeros(3, "M8[s]"),
        np.array([None]),
        [1, 2],
        None,
    ],
)
def test_dtypes_outside_the_list_are_not_written(array: Any) -> None:
    with pytest.raises(WireError) as caught:
        encode_frame({}, [array])
    assert caught.value.reason == "dtype"


@pytest.mark.parametrize("value", [b"x", {1: 2}, 2**63, {1, 2}, object(), "\ud800", msgpack.ExtType(1, b""), {b"k": 1}])
def test_headers_that_would_be_refused_are_not_written(value: Any) -> None:
    with pytest.raises(WireError) as caught:
        encode_frame({"a": value}, [])
    assert caught.value.reason == "header"


def test_every_truncation_is_refused() -> None:
    frame = small_frame()
    for length in range(len(frame)):
        assert reason_of(frame[:length]) == "truncated"


def test_trailing_bytes_are_refused() -> None:
    assert reason_of(small_frame() + b"\0") == "trailing"
    assert reason_of(small_frame() * 2) == "trailing"


def test_every_bit_flip_is_refused() -> None:
    frame = small_frame()
    regions = {"magic": range(8), "version": range(8, 12), "checksum": range(24, len(frame))}
    for position in range(len(frame)):
        for bit in range(8):
            spoilt = bytearray(frame)
            spoilt[position] ^= 1 << bit
            reason = reason_of(spoilt)
            for name, region in regions.items():
                assert (position in region) == (reason == name) or position in range(12, 24)


def outcome(buffer: bytes, read: Callable[[bytes], Any]) -> str:
    """The reason of refusal, or `read`; any other exception is raised."""
    try:
        read(buffer)
    except WireError as error:
        assert error.reason in REASONS
        return error.reason
    return "read"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    assert outcome(data, decode_frame) != "read"
    assert outcome(small_frame()[:32] + data, decode_frame) != "read"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
def test_random_headers_are_refused(packed: bytes) -> None:
    assert outcome(forge(packed), decode_frame) != "read"


@pytest.mark.parametrize("name", golden_records())
def test_resealed_bit_flips_make_valid_records_or_a_known_error(name: str) -> None:
    """The seal is right, so this is what a foreign writer could send: nothing but WireError may come out."""
    records = golden_records()[name]
    frame = encode(records).tobytes()
    read = decode_targets if name.startswith("teacher") else lambda buffer: decode(buffer, type(records[0]))
    generator = np.random.default_rng(7)
    outcomes = set()
    for position in generator.choice(np.arange(32, len(frame)), 400):
        spoilt = bytearray(frame)
        spoilt[position] ^= 1 << int(generator.integers(8))
        outcomes.add(outcome(seal(spoilt), read))
    assert "checksum" not in outcomes
    assert {"header", "section", "record"} <= outcomes


ENTRY = ["int32", [2], 0, 8]
DATA = bytes(8)


def test_forge_makes_valid_frames() -> None:
    found = decode_frame(forge(table_of(ENTRY), DATA))[1]
    assert found[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (forge(table_of(["float64", [1], 0, 8]), DATA), "dtype"),
        (forge(table_of(["object", [1], 0, 8]), DATA), "dtype"),
        (forge(table_of([None, [1], 0, 8]), DATA), "dtype"),
        (forge(table_of([[], [1], 0, 8]), DATA), "dtype"),
        (forge(table_of(["int32", [3], 0, 8]), DATA), "section"),
        (forge(table_of(["int32", [2], 0, 12]), DATA), "section"),
        (forge(table_of(["int32", [3], 0, 12]), DATA), "section"),
        (forge(table_of(["int32", [1], 0, 4]), DATA), "section"),
        (forge(table_of(["int32", [-2], 0, -8]), DATA), "section"),
        (forge(table_of(["int32", [-1, -2], 0, 8]), DATA), "section"),
        (forge(table_of(["int32", [2.0], 0, 8]), DATA), "section"),
        (forge(table_of(["int32", [True, 2], 0, 8]), DATA), "section"),
        (forge(table_of(["int32", 2, 0, 8]), DATA), "section"),
        (forge(table_of(["int32", [1, 1, 1, 1, 2], 0, 8]), DATA), "section"),
        (forge(table_of(["int32", [2**62, 2**62, 0], 0, 0])), "section"),
        (forge(table_of(ENTRY, ["int32", [2**62, 2**62, 0], 64, 0]), DATA + bytes(56)), "section"),
        (forge(table_of(["int32", [2**62], 0, 2**62]), DATA), "section"),
        (forge(table_of(["uint8", [2**40], 0, 2**40]), DATA), "section"),
        (forge(table_of(["int32", [2], 64, 8]), DATA), "section"),
        (forge(table_of(["int32", [2], 1, 8]), DATA), "section"),
        (forge(table_of(["int32", [2], -64, 8]), DATA), "section"),
        (forge(table_of(["int32", [2], 0]), DATA), "section"),
        (forge(table_of(ENTRY, ENTRY), DATA), "section"),  # overlap
        (forge(table_of(["int32", [2], 64, 8], ENTRY), DATA + bytes(64)), "section"),  # out of order
        (forge(table_of(ENTRY, ["int32", [2], 64, 8]), DATA + b"\1" + bytes(63)), "section"),  # padding
        (forge(table_of(ENTRY), DATA + b"\0"), "section"),
        (forge(table_of(), DATA), "section"),
        (forge(table_of(ENTRY)), "section"),
        (forge(table_of(*[["uint8", [0], 0, 0]] * 300)), "section"),
        (forge(table_of({})), "section"),
        (forge(msgpack.packb({"header": {}, "sections": {}})), "header"),
        (forge(msgpack.packb({"header": [], "sections": []})), "header"),
        (forge(msgpack.packb({"header": {}})), "header"),
        (forge(msgpack.packb({"header": {}, "sections": [], "more": 1})), "header"),
        (forge(msgpack.packb([])), "header"),
        (forge(b""), "header"),
        (forge(table_of(), total=10**15), "oversize"),
        (forge(table_of(), total=10_000), "truncated"),
        (forge(table_of(), total=31), "trailing"),
    ],
)
def test_lying_frames_are_refused(frame: bytes, reason: str) -> None:
    assert reason_of(frame) == reason


def test_first_padding_must_be_zero() -> None:
    frame = bytearray(forge(table_of(ENTRY), DATA))
    assert len(table_of(ENTRY)) + 32 < 64
    frame[63] = 1
    assert reason_of(seal(frame)) == "section"


def in_header(value: bytes) -> bytes:
    """{"header": {"a": value}, "sections": []} with `value` as it is."""
    return forge(b"\x82\xa6header\x81\xa1a" + value + b"\xa8sections\x90")


def test_in_header_makes_valid_frames() -> None:
    assert decode_frame(in_header(b"\x07"))[0] == {"a": 7}
    assert decode_frame(in_header(b"\x91" * 3 + b"\x90"))[0] == {"a": [[[[]]]]}


@pytest.mark.parametrize(
    "value",
    [
        b"\xd4\x05\x00",  # extension types
        b"\xd6\xff\x00\x00\x00\x00",  # timestamps
        b"\xd7\xff" + bytes(8),
        b"\xc7\x0c\xff" + bytes(12),
        b"\xc7\x00\x01",
        b"\xc4\x01x",  # binary
        b"\xc1",  # reserved
        b"\xcf" + b"\xff" * 8,  # beyond int64
        b"\xa2\xff\xff",  # not UTF-8
        b"\xa3\xed\xa0\x80",  # surrogate
        b"\x82\xa1k\x01\xa1k\x02",  # key twice
        b"\x81\x01\x01",  # keys that are no strings
        b"\x81\xc0\x01",
        b"\x81\x90\x01",
        b"\x91" * 4 + b"\x90",  # one too deep
        b"\x91" * 100_000 + b"\x90",
        b"\xdd\xff\xff\xff\xff",  # lengths that lie
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xdc\xff\xff",
        b"\xde\xff\xff",
        b"\xd9\xff",
        b"\xdd\x00\x0f\x00\x00" * 6,
        b"\xdd\x00\x08\x00\x00" + b"\x90" * (1 << 19),  # too many items
    ],
)
def test_forbidden_msgpack_is_refused(value: bytes) -> None:
    assert reason_of(in_header(value)) == "header"


def test_header_twice_is_refused() -> None:
    assert reason_of(forge(b"\x83\xa6header\x80\xa8sections\x90\xa6header\x80")) == "header"


def test_bytes_after_the_header_map_are_refused() -> None:
    assert reason_of(forge(table_of() + b"\xc0")) == "header"


def test_header_limit_is_checked_before_the_checksum() -> None:
    frame = bytearray(small_frame())
    struct.pack_into("<I", frame, 12, MAX_HEADER_BYTES + 1)
    assert reason_of(frame) == "header"


def test_limit_can_be_moved() -> None:
    frame = small_frame()
    assert reason_of(frame, max_bytes=len(frame) - 1) == "oversize"
    decode_frame(frame, max_bytes=len(frame))


@pytest.mark.parametrize(
    "buffer",
    [
        None,
        3,
        "text",
        [1, 2],
        np.zeros((64, 2), np.uint8)[:, 0],
        np.array([None] * 64),
        np.zeros(64, "M8[s]"),
        np.zeros(64),
    ],
)
def test_what_is_no_contiguous_buffer_is_refused(buffer: Any) -> None:
    assert reason_of(buffer) == "buffer"


@pytest.mark.parametrize(
    "frame",
    [
        forge(table_of(["uint8", [2**40], 0, 2**40]), DATA),
        forge(table_of(), total=2**50),
        in_header(b"\xdd\xff\xff\xff\xff"),
        in_header(b"\xdd\x00\x0f\x00\x00" * 6 + b"\x90" * 100_000),
        in_header(b"\x91" * 1_000_000),
        in_header(b"\xdd\x00\x3f\x00\x00" + b"\x90" * 0x3F0000),
    ],
)
def test_refusing_a_huge_claim_takes_little_memory(frame: bytes) -> None:
    limit = 8 * 1024 * 1024  # a copy of the header (at most 4 MiB) and its bookkeeping
    tracemalloc.start()
    try:
        reason_of(frame)
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_reading_a_large_frame_takes_memory_for_its_header_alone() -> None:
    frame = encode([HiddenTargets(np.ones((1000, 4096), np.uint16))])
    tracemalloc.start()
    try:
        decode(frame, HiddenTargets)
        assert tracemalloc.get_traced_memory()[1] < 100_000  # the payload has 8 MB
    finally:
        tracemalloc.stop()


def test_errors_name_reason_and_detail() -> None:
    with pytest.raises(WireError, match=r"^oversize: \d+ bytes, at most 10 are allowed$"):
        decode(small_frame(), Trajectory, max_bytes=10)
