"""Long arrays are copied, checked and summed stretch by stretch."""

import numpy as np
import pytest
import xxhash

from gkd_dist.array_faults import stretches
from gkd_dist.errors import WireError
from gkd_dist.targets import HiddenTargets
from gkd_dist.wire.codec import decode, encode
from gkd_dist.wire.frames import Section, encode_frame, write_frame

LONG = 1_000_003


def test_stretches_cover_an_array_once() -> None:
    elements = np.arange(LONG, dtype=np.int32)
    found = list(stretches(elements))
    assert len(found) > 2
    assert all(np.shares_memory(each, elements) for each in found)
    assert np.array_equal(np.concatenate(found), elements)
    assert list(stretches(elements[:0])) == []


def test_the_checksum_is_that_of_the_whole_frame() -> None:
    arrays = [np.arange(LONG, dtype=np.int32), np.ones(3, np.uint8), np.zeros((0, 4), np.float32), np.ones(LONG)]
    arrays[-1] = arrays[-1].astype(np.float32).reshape(-1, 1)[::2]
    frame = encode_frame({"a": 1}, arrays).tobytes()
    assert int.from_bytes(frame[24:32], "little") == xxhash.xxh3_64_intdigest(frame[:24] + frame[32:])


@pytest.mark.parametrize("place", [0, LONG // 2, LONG - 1])
@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC1, 0xFFFF])
def test_a_bad_value_is_found_wherever_it_stands(place: int, bits: int) -> None:
    hidden = np.zeros((LONG, 1), np.uint16)
    frame = encode([HiddenTargets(hidden)])
    begin = decode(frame, HiddenTargets)[0].hidden.ctypes.data - frame.ctypes.data + 2 * place
    hidden[place] = bits
    with pytest.raises(WireError, match=r"value: hidden_bfloat16\.hidden"):
        encode([HiddenTargets(hidden)])
    spoilt = frame.copy()
    spoilt[begin : begin + 2] = np.array([bits], "<u2").view(np.uint8)
    spoilt[24:32] = np.array([xxhash.xxh3_64_intdigest(spoilt[:24].tobytes() + spoilt[32:].tobytes())]).view(np.uint8)
    with pytest.raises(WireError, match=r"value: hidden_bfloat16\.hidden"):
        decode(spoilt, HiddenTargets)


def test_pieces_that_do_not_make_the_shape_are_refused() -> None:
    with pytest.raises(WireError, match="section: the pieces do not make the shape"):
        write_frame({}, [Section((3,), (np.zeros(2, np.uint8),))])
