"""Learning rate schedules by their TrainingArguments names."""

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_scheduler

from gkd_dist.config.learner import LearnerConfig


def make_schedule(optimizer: torch.optim.Optimizer, config: LearnerConfig) -> LRScheduler:
    """transformers' schedule of that name over `max_steps`, one step ahead during warm-up.

    transformers warms up from 0: its first step samples, scores and differentiates a batch and then changes nothing.
    Here step s of the warm-up has the learning rate that step s + 1 has there, and the last of them the full one.
    """
    placeholder = torch.optim.SGD([torch.zeros(1)], lr=1.0)  # get_scheduler sets the rates of what it is given
    multiplier = get_scheduler(
        config.lr_scheduler_type,
        placeholder,
        num_warmup_steps=config.warmup_steps,
        num_training_steps=max(1, config.max_steps),
    ).lr_lambdas[0]
    return LambdaLR(optimizer, lambda step: multiplier(step + 1 if step < config.warmup_steps else step))
