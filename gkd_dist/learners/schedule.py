"""Learning rate schedules by their TrainingArguments names."""

import torch
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from gkd_dist.config.learner import LearnerConfig


def make_schedule(optimizer: torch.optim.Optimizer, config: LearnerConfig) -> LRScheduler:
    """transformers' schedule of that name over `max_steps`."""
    return get_scheduler(
        config.lr_scheduler_type,
        optimizer,
        num_warmup_steps=config.warmup_steps,
        num_training_steps=max(1, config.max_steps),
    )
