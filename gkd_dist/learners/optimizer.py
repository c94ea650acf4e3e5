"""Optimizers by their TrainingArguments names."""

import torch
from torch import nn
from transformers.optimization import Adafactor

from gkd_dist.config.learner import LearnerConfig


def make_optimizer(model: nn.Module, config: LearnerConfig) -> torch.optim.Optimizer:
    """An optimizer over all trainable parameters; norms and biases (one axis) are not decayed."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adafactor":
        # As the paper trains T5: a given learning rate, no relative steps (arXiv 2306.13649, appendix).
        scaled = config.scale_parameter
        return Adafactor(groups, lr=config.learning_rate, scale_parameter=scaled, relative_step=False)
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)
