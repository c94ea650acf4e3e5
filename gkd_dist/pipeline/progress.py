"""How far a run has come: what a checkpoint holds beside the learner's own state."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gkd_dist.errors import UserError
from gkd_dist.replay.sample_ids import SampleIdSet

_FILE = "ring.json"
_SCHEMA = 1
_KEYS = {"schema", "run", "step", "trained", "dropped", "baseline", "num_trained_tokens"}


@dataclass
class Progress:
    """Of one run, over all its starts."""

    run: str
    step: int = 0
    """Train steps done; the policy version."""
    trained: SampleIdSet = field(default_factory=SampleIdSet)
    """Ids of these steps: none of them is ever trained on again, except by `replay.max_uses`."""
    dropped: SampleIdSet = field(default_factory=SampleIdSet)
    """Ids that no sampler or teacher could serve."""
    baseline: float | None = None
    """State of the reward's baseline."""
    num_trained_tokens: int = 0

    def write(self, checkpoint: Path) -> None:
        """Into the folder of a checkpoint."""
        state = {
            "schema": _SCHEMA,
            "run": self.run,
            "step": self.step,
            "trained": _ranges(self.trained),
            "dropped": _ranges(self.dropped),
            "baseline": self.baseline,
            "num_trained_tokens": self.num_trained_tokens,
        }
        (checkpoint / _FILE).write_text(json.dumps(state) + "\n")

    def copy(self) -> "Progress":
        """As it is now, whatever comes."""
        trained, dropped = SampleIdSet(self.trained.ranges()), SampleIdSet(self.dropped.ranges())
        return Progress(self.run, self.step, trained, dropped, self.baseline, self.num_trained_tokens)

    @classmethod
    def read(cls, checkpoint: Path) -> "Progress":
        """
        Raises:
            UserError: not what `write` writes; says what is wrong.
        """
        file = checkpoint / _FILE
        try:
            state: dict[str, Any] = json.loads(file.read_text())
            if state.keys() != _KEYS or state["schema"] != _SCHEMA:
                raise ValueError("it was written by another version of gkd_dist")
            return cls(
                run=state["run"],
                step=state["step"],
                trained=_set(state["trained"]),
                dropped=_set(state["dropped"]),
                baseline=state["baseline"],
                num_trained_tokens=state["num_trained_tokens"],
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"the checkpoint's {file} cannot be read ({error})") from error


def _ranges(ids: SampleIdSet) -> dict[str, list[tuple[int, int]]]:
    return {str(repeat): ranges for repeat, ranges in ids.ranges().items()}


def _set(ranges: dict[str, list[list[int]]]) -> SampleIdSet:
    return SampleIdSet({int(repeat): [(start, end) for start, end in pairs] for repeat, pairs in ranges.items()})
