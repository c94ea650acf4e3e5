"""What a check of a teacher found, and by how much it may be off (floor F0: stdlib alone)."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far log-probs may be from what they should be."""

    max_nats: float
    """At one id of one token."""
    mean_nats: float
    """Over all of them: rounding averages out, a wrong factor does not."""

    def allows(self, gaps: Sequence[float]) -> bool:
        """Whether log-probs that differ by `gaps` count as the same."""
        return not gaps or (max(gaps) <= self.max_nats and sum(gaps) / len(gaps) <= self.mean_nats)


@dataclass(frozen=True, slots=True)
class TeacherCheck:
    """How a teacher's answers about golden sequences compare with what they should be."""

    compared_with: str
    """Whose answers these have to equal, for messages."""
    num_tokens: int
    """Golden completion tokens."""
    top1_agreement: float | None
    """Share of them at which the most probable token is the expected one, or as probable; None where the answers do
    not say which is the most probable."""
    max_gap_nats: float
    """Largest difference of a log-prob among the most probable ids."""
    mean_gap_nats: float
    tolerance: Tolerance
    fault: str = ""
    """What is wrong with the answers, whatever they should be; empty when nothing is."""
    top_log_probs: tuple[float, ...] = ()
    """Of the most probable id at each golden token, nats; where the answers do not say, of the token itself. What
    replicas of one teacher have in common."""

    @property
    def passed(self) -> bool:
        near = self.max_gap_nats <= self.tolerance.max_nats and self.mean_gap_nats <= self.tolerance.mean_nats
        return near and self.top1_agreement in (None, 1.0) and not self.fault

    def __str__(self) -> str:
        agreement = "" if self.top1_agreement is None else f"top-1 agreement {self.top1_agreement:.1%}, "
        figures = (
            f"{agreement}largest difference {self.max_gap_nats:.3g} nats "
            f"(allowed {self.tolerance.max_nats:g}), mean {self.mean_gap_nats:.2g} (allowed "
            f"{self.tolerance.mean_nats:g}), at {self.num_tokens} tokens, compared with {self.compared_with}"
        )
        return f"{self.fault}; {figures}" if self.fault else figures
