"""Whom a failure is blamed on, and how much a run bears."""

import pytest

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.errors import (
    DataError,
    DeadlineError,
    EngineError,
    LostTargetsError,
    RejectedError,
    RoleLostError,
    WeightsError,
    WireError,
)
from gkd_dist.supervision.budgets import Budgets
from gkd_dist.supervision.failures import Failure, ReplicaEndedError, classify

INFRA = [
    EngineError("x"), DeadlineError("x"), WeightsError("x"), LostTargetsError("x"), RoleLostError("x"),
    ReplicaEndedError("x"),
]  # fmt: skip
DATA = [RejectedError("x"), WireError("checksum"), DataError("x"), ValueError("x"), TimeoutError(), OSError("x")]


@pytest.mark.parametrize("error", INFRA, ids=repr)
def test_the_replica_is_blamed(error: Exception) -> None:
    assert classify(error) is Failure.INFRA


@pytest.mark.parametrize("error", DATA, ids=repr)
def test_the_request_is_blamed_also_for_what_nobody_knows(error: Exception) -> None:
    assert classify(error) is Failure.DATA


def test_any_success_ends_a_row_of_losses() -> None:
    budgets = Budgets(max_losses=2, max_dropped=0)
    for _ in range(5):
        assert budgets.spend(EngineError("down")) is Failure.INFRA
        assert budgets.spend(DeadlineError("late")) is Failure.INFRA
        budgets.succeeded()
    budgets.spend(EngineError("down"))
    budgets.spend(EngineError("down"))
    last = EngineError("down")
    with pytest.raises(EngineError) as caught:
        budgets.spend(last)
    assert caught.value is last
    assert "3 requests in a row" in last.__notes__[0]


def test_drops_count_for_the_life_of_the_run_and_of_former_attempts() -> None:
    budgets = Budgets.of(SupervisionConfig(max_dropped=3), num_dropped=1)
    for _ in range(2):
        assert budgets.spend(RejectedError("too long")) is Failure.DATA
        budgets.succeeded()
    assert budgets.num_dropped == 3
    with pytest.raises(RejectedError) as caught:
        budgets.spend(RejectedError("too long"))
    assert "supervision.max_dropped is 3" in caught.value.__notes__[0]
