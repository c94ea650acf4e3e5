"""How a run ended that was to stop."""

from dataclasses import dataclass
from typing import Any

from gkd_dist.errors import GkdError
from gkd_dist.runs.run_directory import RunDirectory

_GOOD = frozenset({0, 75})
"""Exit codes of runs that are finished, or can be gone on with."""


@dataclass(frozen=True)
class Ending:
    name: str
    """Of the run, or of its job."""
    exit_code: int | None
    """None: it was killed."""
    how: str
    directory: RunDirectory | None
    """None: it cannot be seen from here."""
    was_before: bool = False
    """There was nothing to stop."""

    @property
    def verdict(self) -> int:
        """Of the command that was to stop it: 0 where it had ended before, is finished or left a good checkpoint, else
        its exit code."""
        if self.was_before or self.exit_code in _GOOD:
            return 0
        return GkdError.exit_code if self.exit_code is None else self.exit_code

    @property
    def record(self) -> dict[str, Any]:
        """For JSON."""
        path = None if self.directory is None else str(self.directory.path)
        return {"run": self.name, "exit_code": self.exit_code, "last_checkpoint": self._step, "path": path}

    def __str__(self) -> str:
        how = f"already ended ({self.how})" if self.was_before else self.how
        return f"{self.name}: {how}" + ("" if self._step is None else f", last checkpoint: step {self._step}")

    @property
    def _step(self) -> int | None:
        return None if self.directory is None else self.directory.last_checkpoint
