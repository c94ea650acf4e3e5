"""Teacher targets on disk: found as they were kept, or not at all, within a bound."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.targets import FullTargets, HiddenTargets, SampledTargets, TeacherTargets, TopKTargets
from gkd_dist.teachers import score_cache
from gkd_dist.teachers.score_cache import ScoreCache
from gkd_dist.wire.codec import encode

LOG_PROBS = np.array([[-0.5, -1.25], [-0.75, -2.0], [-3.0, -0.125]], np.float32)
EVERY_KIND = [
    HiddenTargets(LOG_PROBS),
    HiddenTargets(np.arange(6, dtype=np.uint16).reshape(3, 2)),
    FullTargets(LOG_PROBS),
    TopKTargets(np.array([[4, 2], [0, 1], [7, 3]], np.int32), LOG_PROBS),
    SampledTargets(LOG_PROBS[:, 0]),
]


def key(number: int) -> str:
    return f"{number:032x}"


def sampled(number: int, num_tokens: int = 3) -> SampledTargets:
    return SampledTargets(np.full(num_tokens, -1.0 - number, np.float32))


def num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


ENTRY_BYTES = encode([sampled(0)]).size


@pytest.mark.parametrize("targets", EVERY_KIND, ids=lambda targets: type(targets).__name__)
def test_targets_of_every_transport_are_found_bit_for_bit(targets: TeacherTargets, tmp_path: Path) -> None:
    ScoreCache(tmp_path, 1 << 20).keep(key(1), targets)
    found = ScoreCache(tmp_path, 1 << 20).find(key(1), 3)
    assert encode([found]).tobytes() == encode([targets]).tobytes()
    assert ScoreCache(tmp_path, 1 << 20).find(key(2), 3) is None


@given(position=st.integers(0, ENTRY_BYTES - 1), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_file_is_absent_and_removed(
    position: int, bit: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = ScoreCache(tmp_path_factory.mktemp("scores"), 1 << 20)
    cache.keep(key(1), sampled(1))
    (file,) = cache._folder.rglob("*.frame")
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content[:position] if cut else content)
    assert cache.find(key(1), 3) is None
    assert not file.exists()


def test_removing_a_damaged_file_is_logged_with_its_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ScoreCache(tmp_path, 1 << 20)
    cache.keep(key(1), sampled(1))
    (file,) = tmp_path.rglob("*.frame")
    file.write_bytes(b"")
    assert cache.find(key(1), 3) is None
    cache.keep(key(1), sampled(1))
    assert cache.find(key(1), 4) is None, "of another number of tokens"
    assert [str(file) in message for message in caplog.messages] == [True, True]


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, 4 * ENTRY_BYTES)
    for number in range(4):
        cache.keep(key(number), sampled(number))
        os.utime(cache._path(key(number)), (number, number))  # long ago, in this order
    assert cache.find(key(0), 3) is not None  # used now
    cache.keep(key(4), sampled(4))
    left = [number for number in range(5) if cache.find(key(number), 3) is not None]
    assert left == [0, 3, 4]


def test_the_folder_stays_within_its_bound_and_is_not_counted_for_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    entries = score_cache._entries
    monkeypatch.setattr(score_cache, "_entries", lambda folder: counts.append(folder == tmp_path) or entries(folder))
    bound = 128 * ENTRY_BYTES
    cache = ScoreCache(tmp_path, bound)
    for number in range(512):
        cache.keep(key(number), sampled(number))
        assert num_bytes(tmp_path) <= bound + bound // 32 + ENTRY_BYTES
    assert num_bytes(tmp_path) > bound // 2
    assert sum(counts) <= 1 + 512 // 4


def test_what_does_not_fit_at_all_evicts_nothing(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, 2 * ENTRY_BYTES)
    cache.keep(key(1), sampled(1))
    cache.keep(key(2), sampled(2, num_tokens=4096))
    assert cache.find(key(1), 3) is not None
    assert cache.find(key(2), 4096) is None


def test_leftovers_of_killed_writers_count_and_go(tmp_path: Path) -> None:
    """The witness is the exit by SIGKILL between writing and renaming."""
    program = (
        "import sys; from pathlib import Path; import numpy as np; from gkd_dist.targets import SampledTargets;"
        "from gkd_dist.teachers.score_cache import ScoreCache;"
        "ScoreCache(Path(sys.argv[1]), 1 << 20).keep('0' * 32, SampledTargets(np.zeros(3, np.float32)))"
    )
    environment = os.environ | {"GKD_FAULTS": "score_cache.before_rename:kill"}
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (leftover,) = (path for path in tmp_path.rglob("*") if path.is_file())
    os.utime(leftover, (0, 0))
    cache = ScoreCache(tmp_path, 2 * ENTRY_BYTES)
    assert cache.find(key(0), 3) is None
    for number in range(3):
        cache.keep(key(number), sampled(number))
    assert not leftover.exists()
    assert cache.find(key(2), 3) is not None


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "scores").write_text("a file")
    cache = ScoreCache(tmp_path / "scores", 1 << 20)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            cache.keep(key(number), sampled(number))
            assert cache.find(key(number), 3) is None
    assert len(caplog.messages) == 1


def test_processes_share_a_folder_that_is_too_small_for_them(tmp_path: Path) -> None:
    """Four write, read and evict the same names at once: whatever is found is right, and the bound holds."""
    context = multiprocessing.get_context("fork")
    together, results = context.Barrier(4), context.Queue()
    bound = 64 * ENTRY_BYTES

    def work(seed: int) -> None:
        cache, rng, hits = ScoreCache(tmp_path, bound), np.random.default_rng(seed), 0
        together.wait(20)
        for number in rng.integers(0, 128, 600).tolist():
            found = cache.find(key(number), 3)
            if found is None:
                cache.keep(key(number), sampled(number))
            elif encode([found]).tobytes() == encode([sampled(number)]).tobytes():
                hits += 1
            else:
                results.put(f"{number} is wrong")
        results.put(hits)

    processes = [context.Process(target=work, args=(seed,)) for seed in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(20)
    assert all(isinstance(hits, int) and hits > 0 for hits in found), found
    assert num_bytes(tmp_path) <= bound + 4 * (bound // 32 + ENTRY_BYTES)
