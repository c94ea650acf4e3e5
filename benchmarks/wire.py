"""Measure the codec: teacher targets to bytes and back, beside other formats and a plain copy, in turns in one process.

    .venv/bin/python benchmarks/wire.py [--rounds 15]

Cases are 8 and 32 MiB of hidden states (eight sequences, bfloat16 bits, width 1024) and the top 64 of 4,096 tokens.
Ours checks every value and sums every byte on both sides, the others do neither. `ours_fresh` is the way of a run: each
message is encoded into memory that is allocated for it, as the others do too; it is compared with a copy into fresh
memory. `ours` writes into a buffer that is used again (`out=`), which no part of a run does: it tells encoding from
allocating.

Each process that is measured has the allocator's settings of a run's actors (`gkd_dist/process.py`): memory that was
freed is kept and used again. `default_allocator` are the same cases without them, where large messages get fresh pages
from the kernel each time.

Decoding by ours, pickle 5 in band, msgpack, safetensors and Arrow gives arrays; which of them are copies the result
says. Time is CPU time of this process, kernel included: all of it is one thread, and what others do on the machine is
left out. Writes benchmarks/wire.json.

`floor` says how near to a copy encoding can come on one thread: a copy of 32 MiB, and beside it what looking for values
that are not finite (a signed and an unsigned maximum) and the checksum take of as many bytes that lie in the cache.

`decoding` says what decoding costs beyond the bytes that it must read: the same messages from 1 to 64 MiB, whole, and
with the checksum, the checks of values, and both left out.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgpack
import numpy as np
import pyarrow
import safetensors
import safetensors.numpy
import xxhash
from counts import positive
from rounds import machine, ratio, summary, take_turns

from gkd_dist.process import actor_environment
from gkd_dist.targets import HiddenTargets, TeacherTargets, TopKTargets
from gkd_dist.wire import frames
from gkd_dist.wire.codec import decode_targets, encode
from gkd_dist.wire.columns import Array

RESULT = Path(__file__).with_suffix(".json")
WIDTH, SEQUENCES, TOP_K, TOKENS = 1024, 8, 64, 4096
MIB = 1 << 20
MAX_BYTES = 1 << 30
CLOCK = time.process_time
ALLOCATOR = {name: value for name, value in actor_environment().items() if name.startswith("MALLOC_")}
"""Read by the C library when a process starts: each of the two results is of a process of its own."""

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Format:
    """One way to bytes and back."""

    encode: Callable[[Arrays], Any]
    decode: Callable[[Any], Arrays]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--in-this-process", choices=("all", "cases"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_this_process:
        print(json.dumps(measured_here(arguments.rounds, with_decoding=arguments.in_this_process == "all")))
        return
    result = {
        "machine": machine(),
        "versions": {module.__name__: module.__version__ for module in (np, pyarrow, safetensors)},
        "rounds": arguments.rounds,
        **measured_in(ALLOCATOR, "all", arguments.rounds),
        "default_allocator": measured_in({}, "cases", arguments.rounds),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2), f"\nwritten to {RESULT}")


def measured_in(allocator: dict[str, str], what: str, rounds: int) -> dict[str, Any]:
    """What a process of its own measures, with these settings of the allocator and no others."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, __file__, "--rounds", str(rounds), "--in-this-process", what]
    done = subprocess.run(command, env=others | allocator, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measured_here(rounds: int, *, with_decoding: bool) -> dict[str, Any]:
    found = {
        "allocator": {name: os.environ.get(name) for name in ALLOCATOR},
        "cases": {
            "hidden_8_mib": measure(hidden(8), rounds),
            "hidden_32_mib": measure(hidden(32), rounds),
            "top_64_of_4096_tokens": measure([top_k()], rounds),
        },
    }
    if with_decoding:
        found |= {"floor": floor(rounds), "decoding": decoding([1, 4, 16, 64], rounds)}
    return found


def floor(rounds: int) -> dict[str, Any]:
    """Milliseconds for 32 MiB; `of_copy`: the copy over all of them."""
    source = np.random.default_rng(0).integers(0, 0x7F00, 32 * MIB // 2, np.uint16)
    place, stretch = np.empty_like(source), source[: frames.STRETCH_BYTES // 2].copy()
    number = source.nbytes // stretch.nbytes
    checksum = xxhash.xxh3_64()
    works: dict[str, Callable[[], object]] = {
        "copy": lambda: np.copyto(place, source),
        "signed_maximum": lambda: [stretch.view(np.int16).max() for _ in range(number)],
        "unsigned_maximum": lambda: [stretch.max() for _ in range(number)],
        "checksum": lambda: [checksum.update(stretch.data) for _ in range(number)],
    }
    least = {name: min(seconds) for name, seconds in take_turns(works, rounds, CLOCK).items()}
    return {
        "min_ms": {name: round(seconds * 1e3, 4) for name, seconds in least.items()},
        "of_copy": round(least["copy"] / sum(least.values()), 3),
    }


def measure(targets: list[TeacherTargets], rounds: int) -> dict[str, Any]:
    """Every format on the same arrays, in turns; encoding and decoding apart."""
    arrays = arrays_of(targets)
    num_bytes = sum(array.nbytes for array in arrays)
    frame = encode(targets)
    reused = bytearray(frame.size)
    place = np.frombuffer(reused, np.uint8)[:num_bytes]
    flat = np.concatenate([array.reshape(-1).view(np.uint8) for array in arrays])
    encoders = {
        "copy": lambda: np.copyto(place, flat),
        "copy_fresh": flat.copy,
        "ours": lambda: encode(targets, out=reused),
        "ours_fresh": lambda: encode(targets),
        "ours_unchecked": lambda: unchecked(encode, targets, out=reused),
        "ours_fresh_unchecked": lambda: unchecked(encode, targets),
        **{name: partial(each.encode, arrays) for name, each in FORMATS.items()},
    }
    encoded = {name: each.encode(arrays) for name, each in FORMATS.items()}
    decoders = {
        "copy": lambda: np.copyto(place, flat),
        "ours": lambda: decode_targets(frame, max_bytes=MAX_BYTES),
        "ours_unchecked": lambda: unchecked(decode_targets, frame, max_bytes=MAX_BYTES),
        **{name: partial(each.decode, encoded[name]) for name, each in FORMATS.items()},
    }
    encoding, decoding = take_turns(encoders, rounds, CLOCK), take_turns(decoders, rounds, CLOCK)
    return {
        "payload_bytes": num_bytes,
        "frame_bytes": int(frame.size),
        "encode": {name: summary(values, num_bytes) for name, values in encoding.items()},
        "decode": {name: summary(values, num_bytes) for name, values in decoding.items()},
        "decode_copies": {name: copies(each, encoded[name]) for name, each in FORMATS.items()},
        "encode_times_as_fast_as": {
            "copy": ratio(encoding, "copy", "ours"),
            "copy, unchecked": ratio(encoding, "copy", "ours_unchecked"),
            "copy, both fresh": ratio(encoding, "copy_fresh", "ours_fresh"),
            **{name: ratio(encoding, name, "ours") for name in FORMATS},
            **{f"{name}, both fresh": ratio(encoding, name, "ours_fresh") for name in FORMATS},
        },
    }


def decoding(sizes_mib: list[int], rounds: int) -> dict[str, Any]:
    """Milliseconds by size in MiB; `flat` is the time of the largest over that of the smallest."""
    sent = {size: encode(hidden(size)) for size in sizes_mib}
    ways: dict[str, Callable[..., Any]] = {
        "whole": lambda frame: decode_targets(frame, max_bytes=MAX_BYTES),
        "without_checksum": lambda frame: unchecked(decode_targets, frame, max_bytes=MAX_BYTES, values=True),
        "without_values": lambda frame: unchecked(decode_targets, frame, max_bytes=MAX_BYTES, checksum=True),
        "without_both": lambda frame: unchecked(decode_targets, frame, max_bytes=MAX_BYTES),
    }
    works = {f"{way}/{size}": partial(call, sent[size]) for way, call in ways.items() for size in sizes_mib}
    seconds = take_turns(works, rounds, CLOCK)
    return {
        way: {
            "min_ms": {size: round(min(seconds[f"{way}/{size}"]) * 1e3, 4) for size in sizes_mib},
            "flat": ratio(seconds, f"{way}/{sizes_mib[-1]}", f"{way}/{sizes_mib[0]}"),
        }
        for way in ways
    }


def unchecked(call: Callable[..., Any], *args: Any, values: bool = False, checksum: bool = False, **more: Any) -> Any:
    """`call` with those checks alone that are named; the time of the patches (some 50 us) is in it."""
    with ExitStack() as stack:
        if not values:
            stack.enter_context(patch.object(Array, "_check", lambda *_: None))
        if not checksum:
            stack.enter_context(_without_checksum())
        return call(*args, **more)


@contextmanager
def _without_checksum() -> Iterator[None]:
    class Nothing:
        def __init__(self, *_: object) -> None: ...
        def update(self, _: object) -> None: ...
        def intdigest(self) -> int:
            return 0

    known = frames._PREAMBLE.unpack_from

    class Preamble:
        """Says that the checksum is the one that `Nothing` finds."""

        size, pack_into = frames._PREAMBLE.size, frames._PREAMBLE.pack_into

        @staticmethod
        def unpack_from(buffer: Any) -> tuple[Any, ...]:
            return (*known(buffer)[:-1], 0)

    with patch.object(frames.xxhash, "xxh3_64", Nothing), patch.object(frames, "_PREAMBLE", Preamble):
        yield


def hidden(size_mib: int) -> list[TeacherTargets]:
    """Eight sequences with states of bfloat16 bits, `size_mib` together."""
    rows = size_mib * MIB // (2 * WIDTH)
    states = np.random.default_rng(0).standard_normal((rows, WIDTH), dtype=np.float32)
    bits = (states.view(np.uint32) >> 16).astype(np.uint16)
    return [HiddenTargets(part) for part in np.array_split(bits, SEQUENCES)]


def top_k() -> TeacherTargets:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 150_000, (TOKENS, TOP_K), dtype=np.int32)
    return TopKTargets(ids, -np.sort(rng.exponential(3, (TOKENS, TOP_K)).astype(np.float32)))


def arrays_of(targets: list[TeacherTargets]) -> Arrays:
    return [
        array
        for item in targets
        for array in ((item.token_ids, item.log_probs) if isinstance(item, TopKTargets) else (item.hidden,))
    ]


def copies(way: Format, encoded: Any) -> bool:
    """Whether what it decodes is no view of the bytes; formats that hold no buffer count as copies."""
    held = encoded if isinstance(encoded, pyarrow.Buffer) else memoryview(encoded)
    return not np.shares_memory(way.decode(encoded)[0], np.frombuffer(held, np.uint8))


def _msgpack(body: Callable[[np.ndarray], Any]) -> Format:
    def pack(arrays: Arrays) -> bytes:
        return msgpack.packb([(array.dtype.str, array.shape, body(array)) for array in arrays])

    def unpack(packed: bytes) -> Arrays:
        return [
            np.frombuffer(data, dtype).reshape(shape)
            for dtype, shape, data in msgpack.unpackb(packed, max_bin_len=MAX_BYTES)
        ]

    return Format(pack, unpack)


def _arrow_encode(arrays: Arrays) -> pyarrow.Buffer:
    columns = [pyarrow.array(array.reshape(-1)) for array in arrays]
    sink = pyarrow.BufferOutputStream()
    tables = [pyarrow.record_batch([column], ["x"]) for column in columns]
    schema = pyarrow.unify_schemas([table.schema for table in tables[:1]])
    if len({table.schema.field(0).type for table in tables}) > 1:
        tables = [pyarrow.record_batch(columns, ["ids", "log_probs"])]
        schema = tables[0].schema
    with pyarrow.ipc.new_stream(sink, schema) as writer:
        for table in tables:
            writer.write_batch(table)
    return sink.getvalue()


def _arrow_decode(buffer: pyarrow.Buffer) -> Arrays:
    with pyarrow.ipc.open_stream(buffer) as reader:
        return [column.to_numpy(zero_copy_only=True) for batch in reader for column in batch.columns]


FORMATS = {
    "pickle_5": Format(partial(pickle.dumps, protocol=5), pickle.loads),
    "msgpack_bytes": _msgpack(np.ndarray.tobytes),
    "msgpack_view": _msgpack(lambda array: array.reshape(-1).view(np.uint8).data),
    "safetensors": Format(
        lambda arrays: safetensors.numpy.save({str(index): array for index, array in enumerate(arrays)}),
        lambda data: list(safetensors.numpy.load(data).values()),
    ),
    "arrow": Format(_arrow_encode, _arrow_decode),
}

if __name__ == "__main__":
    main()
