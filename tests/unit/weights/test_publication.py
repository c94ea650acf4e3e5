"""From parameters to buckets, through shared memory, and back."""

import math
import mmap
import os
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.errors import EngineError, WeightsError
from gkd_dist.types import WeightManifest
from gkd_dist.weights import shared_memory
from gkd_dist.weights.manifest import digest, verify
from gkd_dist.weights.publisher import WeightPublisher
from gkd_dist.weights.shared_memory import SharedSegment, map_bucket, sweep
from gkd_dist.weights.tensors import is_finite, read_tensors


def parameters(shapes: list[tuple[int, ...]], seed: int = 0) -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(f"tensor.{index}", torch.randn(shape, generator=generator)) for index, shape in enumerate(shapes)]


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), min_size=1, max_size=8))
def test_every_tensor_comes_back_bit_for_bit(shapes: list[tuple[int, ...]]) -> None:
    named = parameters(shapes)
    publication = WeightPublisher("epoch", 1024, "float32").publish(named, 3)
    verify(publication.manifest, publication.buckets)
    back = dict(read_tensors(publication.buckets, publication.manifest.tensors))
    for name, tensor in named:
        assert torch.equal(back[name], tensor)
    assert publication.manifest.version == 3


@pytest.mark.fault(24)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_not_finite_is_not_published(dtype: str, value: float) -> None:
    named = parameters([(7, 5), (3,), (2, 2)])
    named[1][1][2] = value
    with pytest.raises(EngineError, match=r"tensor\.1 is not finite after step 4"):
        WeightPublisher("epoch", 64, dtype).publish(named, 4)


def test_bfloat16_is_rounded_once_by_torch() -> None:
    named = parameters([(7, 5), (3,)])
    publication = WeightPublisher("epoch", 64, "bfloat16").publish(named, 0)
    for name, tensor in read_tensors(publication.buckets, publication.manifest.tensors):
        assert torch.equal(tensor, dict(named)[name].to(torch.bfloat16))


def test_a_publication_does_not_change_when_the_parameters_do() -> None:
    named = parameters([(4, 4)])
    publication = WeightPublisher("epoch", 1024, "float32").publish(named, 0)
    with torch.no_grad():
        named[0][1].zero_()
    verify(publication.manifest, publication.buckets)
    assert dict(read_tensors(publication.buckets, publication.manifest.tensors))["tensor.0"].abs().sum() > 0


def test_a_stream_of_buckets_holds_one_at_a_time() -> None:
    named = parameters([(64,)] * 10)
    whole = WeightPublisher("epoch", 512, "float32").publish(named, 3)
    alive = most_alive = 0

    def freed() -> None:
        nonlocal alive
        alive -= 1

    digests = []
    parts = WeightPublisher("epoch", 512, "float32").stream(named, 3)
    while not isinstance(part := next(parts), WeightManifest):
        alive += 1
        most_alive = max(most_alive, alive)
        weakref.finalize(part, freed)
        digests.append(digest(part))
        del part  # as an object store does that has it
    assert most_alive == 1
    assert part == whole.manifest
    assert len(digests) == 5
    assert tuple(digests) == whole.manifest.digests


def test_a_flipped_bit_is_found() -> None:
    publication = WeightPublisher("epoch", 1024, "float32").publish(parameters([(4, 4)]), 0)
    damaged = [bucket.copy() for bucket in publication.buckets]
    damaged[0][5] ^= 1
    with pytest.raises(WeightsError, match="bucket 0"):
        verify(publication.manifest, damaged)


def test_a_segment_is_readable_by_path_until_closed() -> None:
    buckets = [np.arange(200, dtype=np.uint8), np.arange(7, dtype=np.uint8)]
    with SharedSegment() as segment:
        segment.write(buckets)
        for shared, bucket in zip(segment.buckets, buckets, strict=True):
            assert Path(shared.path).parent == segment.folder
            np.testing.assert_array_equal(map_bucket(shared), bucket)
        assert segment.copied_bytes == 207
        mapped = map_bucket(segment.buckets[0])
    assert not segment.folder.exists()
    np.testing.assert_array_equal(mapped, buckets[0])


CHILD_OF_A_STORE = """
import mmap, os, sys
import numpy as np
from gkd_dist.weights.shared_memory import SharedSegment, map_bucket

descriptor, offset, size = map(int, sys.argv[1:])
store = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8)
os.close(descriptor)
inside, outside = store[offset : offset + size], np.full(5, 9, np.uint8)
with SharedSegment() as segment:
    segment.write([inside, outside, inside[::2]])
    print(sorted(os.listdir(segment.folder)))
    for bucket in segment.buckets:
        print(bucket.path, bucket.offset_bytes, bucket.num_bytes, *map_bucket(bucket)[:4])
"""


def test_a_bucket_in_the_memory_of_the_starting_process_is_named_where_it_lies(tmp_path: Path) -> None:
    """As a worker has buckets from Ray's object store: mapped from a file without a name that its raylet holds open."""
    with tempfile.TemporaryFile(dir=tmp_path) as store:
        store.write(bytes(3 * mmap.PAGESIZE) + bytes(range(200)))
        store.flush()
        arguments = [str(store.fileno()), str(3 * mmap.PAGESIZE), "200"]
        child = subprocess.run(
            [sys.executable, "-c", CHILD_OF_A_STORE, *arguments],
            pass_fds=[store.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
        files, inside, outside, strided = child.stdout.splitlines()
        assert files == "['bucket-1', 'bucket-2']"
        assert inside == f"/proc/{os.getpid()}/fd/{store.fileno()} {3 * mmap.PAGESIZE} 200 0 1 2 3"
        assert outside.endswith("/bucket-1 0 5 9 9 9 9")
        assert strided.endswith("/bucket-2 0 100 0 2 4 6")


def test_a_bucket_that_is_found_but_cannot_be_opened_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = np.arange(200, dtype=np.uint8)
    start = bucket.ctypes.data
    where = shared_memory._Mapping(start, start + bucket.size, "/nowhere", 0)
    monkeypatch.setattr(shared_memory, "_shared_mappings", lambda: iter([where]))
    with SharedSegment() as segment:
        segment.write([bucket])
        np.testing.assert_array_equal(map_bucket(segment.buckets[0]), bucket)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shared memory of our own."""
    monkeypatch.setattr("gkd_dist.weights.shared_memory._SHM", tmp_path)
    return tmp_path


def test_a_failed_write_leaves_no_segment(base: Path) -> None:
    with pytest.raises(OSError, match="bucket-1"), SharedSegment() as segment:
        (next(base.iterdir()) / "bucket-1").mkdir()
        segment.write([np.zeros(3, np.uint8), np.zeros(3, np.uint8)])
    assert list(base.iterdir()) == []


def test_a_write_behind_the_close_leaves_nothing(base: Path) -> None:
    with SharedSegment() as segment:
        pass
    with pytest.raises(OSError, match="bucket-0"):
        segment.write([np.zeros(3, np.uint8)])
    assert list(base.iterdir()) == []


def test_segments_of_dead_processes_are_swept_and_no_others(base: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    space = os.stat("/proc/self/ns/pid").st_ino
    dead = base / f"gkd-weights-{space}-{child.pid}-x"
    others = [
        base / f"gkd-weights-{space}-{os.getppid()}-x",
        base / f"gkd-weights-{space + 1}-{child.pid}-x",  # of a container that counts its processes for itself
        base / f"gkd-weights-{space}-x-y",
        base / f"other-{child.pid}-x",
    ]
    for folder in (dead, *others):
        folder.mkdir()
        (folder / "bucket-0").write_bytes(b"0")
    with SharedSegment() as own:
        own.write([np.zeros(3, np.uint8)])
        sweep()
        assert Path(own.buckets[0].path).exists()
    assert sorted(base.iterdir()) == sorted(others)


@given(st.lists(st.sampled_from([0.0, -1.5, 3e38, -3e38, math.inf, -math.inf, math.nan]), max_size=9))
def test_a_tensor_is_finite_where_all_of_it_is_also_where_its_sum_is_not(values: list[float]) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tensor = torch.tensor(values).to(dtype)
        assert is_finite(tensor) == bool(tensor.isfinite().all())


def test_what_lies_between_tensors_is_zero() -> None:
    """In buckets whose memory may have held something else before."""
    publication = WeightPublisher("epoch", 512, "bfloat16").publish(parameters([(3,), (5, 7), (33,), (1,)]), 0)
    used = [np.zeros(num_bytes, dtype=bool) for num_bytes in publication.manifest.bucket_bytes]
    for entry in publication.manifest.tensors:
        used[entry.bucket][entry.offset_bytes : entry.offset_bytes + entry.num_bytes] = True
    assert not all(each.all() for each in used)
    for bucket, each in zip(publication.buckets, used, strict=True):
        assert not np.asarray(bucket)[~each].any()
