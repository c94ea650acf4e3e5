"""Two kinds of failures, and whom to blame for one.

INFRA: the replica, not the request, is to blame: ask elsewhere, after a while. DATA: the request itself, or nobody
knows: ask once more, then drop it. An unknown exception is DATA, because those budgets are small and mistakes in the
code must surface.
"""

from enum import StrEnum

from gkd_dist.errors import DeadlineError, EngineError, RejectedError, WeightsError


class Failure(StrEnum):
    INFRA = "infra"
    DATA = "data"


class ReplicaEndedError(EngineError):
    """The replica was ended on purpose while it worked on a request.

    Args:
        drained: it was scaled away, which says nothing against the replica or the request.
    """

    def __init__(self, message: str, drained: bool = False) -> None:
        super().__init__(message)
        self.drained = drained


def classify(error: BaseException) -> Failure:
    """Whom to blame."""
    if isinstance(error, EngineError | DeadlineError | WeightsError) and not isinstance(error, RejectedError):
        return Failure.INFRA
    return Failure.DATA
