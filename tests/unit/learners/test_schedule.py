"""Learning rates of the first and the last steps."""

import pytest
import torch
from pydantic import ValidationError

from gkd_dist.config.learner import LearnerConfig
from gkd_dist.learners.schedule import make_schedule


def rates(name: str, *, warmup_steps: int, max_steps: int, decay_steps: int = 0) -> list[float]:
    """The rate with which each step is taken, base rate 1."""
    config = LearnerConfig(
        lr_scheduler_type=name,
        learning_rate=1.0,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        max_steps=max_steps,
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
    schedule = make_schedule(optimizer, config)
    found = []
    for _ in range(max_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("constant_with_warmup", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_warm_up_wastes_no_step_and_ends_at_the_full_rate(name: str, after: list[float]) -> None:
    assert rates(name, warmup_steps=4, max_steps=8) == pytest.approx([0.25, 0.5, 0.75, 1, *after], abs=1e-6)


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "linear", "cosine"])
def test_without_warm_up_the_first_step_has_the_full_rate(name: str) -> None:
    found = rates(name, warmup_steps=0, max_steps=4)
    assert found[0] == 1
    assert found == sorted(found, reverse=True) and found[-1] > 0


def test_rates_fall_to_zero_between_two_steps() -> None:
    found = rates("warmup_stable_decay", warmup_steps=2, max_steps=10, decay_steps=4)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25], abs=1e-6)


def test_what_a_schedule_does_not_know_is_refused() -> None:
    with pytest.raises(ValidationError, match="cosine has no decay_steps"):
        LearnerConfig(lr_scheduler_type="cosine", decay_steps=3)
    with pytest.raises(ValidationError, match="needs decay_steps"):
        LearnerConfig(lr_scheduler_type="warmup_stable_decay")
    with pytest.raises(ValidationError, match=r"warmup_steps \(5\) and decay_steps \(6\) are more than max_steps"):
        LearnerConfig(lr_scheduler_type="warmup_stable_decay", warmup_steps=5, decay_steps=6, max_steps=10)
