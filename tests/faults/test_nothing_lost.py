"""What was scored is not scored again, and what was trained on is not trained on again."""

import shutil
import signal
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest

from gkd_dist.replay.ledger import Ledger, StepEntry
from gkd_dist.types import Source
from tests.gkd_process import Runs, equal

PAUSE = "learner.after_forward:delay=1@4"
"""In the middle of a step: checkpoint and journal have time to get to the disk."""
KILL = "learner.after_backward:kill@4"


def copy_of(runs: Runs, made: Callable[..., Runs], overrides: tuple[str, ...], folder: Path) -> Runs:
    copied = made(folder, *overrides)
    shutil.copytree(runs.output, copied.output, symlinks=True)
    return copied


def to_score(record: dict[str, float]) -> tuple[float, float]:
    """Tokens that the student wrote, and fixed pairs: some of these were kept by the teacher's cache meanwhile."""
    return record["sampled_tokens"], record.get("score_cache_hit", 0) + record.get("score_cache_miss", 0)


@pytest.mark.fault(22)
def test_a_scored_step_is_not_scored_again(
    local: Runs, clean: Runs, made: Callable[..., Runs], local_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    """The journal also holds the step after it, which weights wrote that are gone, and pairs of that step."""
    two = "checkpoint.save_steps=2"
    local.ends(-signal.SIGKILL, two, faults=f"{PAUSE};{KILL}")
    torn = copy_of(local, made, local_overrides, tmp_path / "torn")
    said = local.ends(0, two).said
    assert "going on after step 2," in said
    assert "4 scored sequences come from the journal" in said
    assert clean.steps[2]["scored_tokens"] > 0
    assert (local.steps[2].get("scored_tokens", 0), local.steps[2].get("sampled_tokens", 0)) == (0, 0)
    assert to_score(local.steps[3]) == to_score(clean.steps[3])
    assert equal(local, clean)

    # Cut off within its third record: the step is sampled and scored again, and comes out the same.
    segment = min(torn.directory.journal.iterdir())
    with segment.open("r+b") as file:
        file.truncate(segment.stat().st_size // 4)
    assert "come from the journal" not in torn.ends(0, two).said
    assert to_score(torn.steps[2]) == to_score(clean.steps[2])
    assert equal(torn, clean)


@pytest.mark.fault(34)
@pytest.mark.fault(36)
def test_an_asynchronous_run_killed_three_times_trains_on_every_row_once(local: Runs) -> None:
    shape = ("mode=async", "replay.max_staleness=2", "learner.max_steps=24", "objective.student_fraction=0.75")
    local.ends(-signal.SIGKILL, *shape, faults="learner.after_forward:delay=1@4;learner.in_optimizer_step:kill@7")
    local.dies("replay.admit:kill@14", *shape)
    local.dies("checkpoint.before_marker:kill@2", *shape)
    local.ends(0, *shape)
    assert local.directory.name == "tiny-1"

    steps = [entry for entry in Ledger(local.directory.ledger).entries() if isinstance(entry, StepEntry)]
    assert [entry.step for entry in steps] == list(range(24))
    assert len({entry.attempt for entry in steps}) >= 3
    sequences = list(chain.from_iterable(entry.sequences for entry in steps))
    # Four rows a step, and no row but those of these steps: none is lost, none comes twice.
    assert sorted(each.sample_id.prompt_index for each in sequences) == list(range(24 * 4))
    assert all(each.use == 1 for each in sequences)
    assert max(each.staleness for each in sequences) <= 2
    assert any(each.staleness > 0 for each in sequences)
    for entry in steps:
        written = [each for each in entry.sequences if each.source is Source.STUDENT]
        assert len(written) == entry.num_student == 3
        assert all(each.versions is not None and each.versions.newest <= entry.step for each in written)
