"""What a run bears of each kind of failure."""

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.supervision.failures import Failure, classify


class Budgets:
    """What a run may lose: INFRA losses in a row, which any success ends, and DATA drops over its whole life.

    Args:
        max_losses: requests in a row that no replica could serve.
        max_dropped: as `supervision.max_dropped`.
        num_dropped: of former attempts of the run.
    """

    def __init__(self, max_losses: int, max_dropped: int, num_dropped: int = 0) -> None:
        self._max_losses = max_losses
        self._max_dropped = max_dropped
        self.num_losses = 0
        """In a row, up to now."""
        self.num_dropped = num_dropped

    @classmethod
    def of(cls, rules: SupervisionConfig, num_dropped: int = 0) -> "Budgets":
        return cls(rules.infra_attempts, rules.max_dropped, num_dropped)

    def succeeded(self) -> None:
        """A request was answered."""
        self.num_losses = 0

    def spend(self, error: Exception) -> Failure:
        """A request ended with `error` after all its attempts; says which budget paid.

        Raises:
            Exception: `error` itself, with a note, where that budget is used up.
        """
        kind = classify(error)
        if kind is Failure.INFRA:
            self.num_losses += 1
            if self.num_losses > self._max_losses:
                error.add_note(
                    f"{self.num_losses} requests in a row were lost; supervision.infra_attempts allows "
                    f"{self._max_losses}"
                )
                raise error
        else:
            self.num_dropped += 1
            if self.num_dropped > self._max_dropped:
                error.add_note(
                    f"{self.num_dropped} prompts were dropped in this run; supervision.max_dropped is "
                    f"{self._max_dropped}"
                )
                raise error
        return kind
