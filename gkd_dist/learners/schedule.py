"""Learning rate schedules by their TrainingArguments names."""

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from gkd_dist.config.learner import LearnerConfig


def make_schedule(optimizer: torch.optim.Optimizer, config: LearnerConfig) -> LambdaLR:
    """transformers' schedule of that name over `max_steps`, one step ahead during warm-up.

    transformers warms up from 0: its first step samples, scores and differentiates a batch and then changes nothing.
    Here step s of the warm-up has the learning rate that step s + 1 has there, and the last of them the full one.
    """
    decays = config.lr_scheduler_type == "warmup_stable_decay"
    placeholder = torch.optim.SGD([torch.zeros(1)], lr=1.0)  # get_scheduler sets the rates of what it is given
    multiplier = get_scheduler(
        config.lr_scheduler_type,
        placeholder,
        num_warmup_steps=config.warmup_steps,
        num_training_steps=max(1, config.max_steps),
        scheduler_specific_kwargs={"num_decay_steps": config.decay_steps, "decay_type": "linear"} if decays else None,
    ).lr_lambdas[0]
    return LambdaLR(optimizer, lambda step: multiplier(step + 1 if step < config.warmup_steps else step))


def go_on_from(schedule: LambdaLR, optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    """Set a new schedule and its optimizer to where they are after `num_steps` steps, to the last bit."""
    rates = [rate * factor(num_steps) for rate, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    schedule.load_state_dict(
        {"last_epoch": num_steps, "_step_count": num_steps + 1, "_last_lr": rates, "lr_lambdas": [None] * len(rates)}
    )
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
