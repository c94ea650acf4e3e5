"""What a step of an optimizer is in proportion to."""

import pytest
import torch
from torch import nn

from gkd_dist.config.learner import LearnerConfig
from gkd_dist.learners.optimizer import make_optimizer


@pytest.mark.parametrize("scaled", [False, True])
def test_steps_of_adafactor_are_relative_to_parameters_where_that_is_asked_for(scaled: bool) -> None:
    model = nn.ModuleList([nn.Linear(64, 64, bias=False) for _ in range(2)])
    with torch.no_grad():
        model[0].weight.normal_(std=1.0)
        model[1].weight.normal_(std=0.1)
    before = [layer.weight.detach().clone() for layer in model]
    config = LearnerConfig(optimizer="adafactor", scale_parameter=scaled, learning_rate=1e-2)
    for layer in model:
        layer.weight.grad = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    make_optimizer(model, config).step()
    steps = [(layer.weight - old).square().mean().sqrt().item() for layer, old in zip(model, before, strict=True)]
    assert steps[0] == pytest.approx(1e-2, rel=0.1)  # of a parameter of size 1 both are the same
    assert steps[1] == pytest.approx(1e-3 if scaled else 1e-2, rel=0.1)


def test_an_optimizer_without_scaling_says_so() -> None:
    with pytest.raises(ValueError, match="optimizer=adamw has no scale_parameter; use optimizer=adafactor"):
        LearnerConfig(scale_parameter=True)
