"""Optimisation; names follow transformers' TrainingArguments."""

from typing import Literal

from pydantic import AliasChoices, Field

from gkd_dist.config.base import Strict


class LearnerConfig(Strict):
    max_steps: int = Field(20, ge=0)
    batch_size: int = Field(
        8, ge=1, validation_alias=AliasChoices("batch_size", "per_device_train_batch_size")
    )
    """Sequences per train step."""
    max_micro_batch_tokens: int = Field(2048, ge=1)
    """Padded tokens per forward; changes memory, never the gradient."""
    learning_rate: float = Field(1e-4, gt=0)
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    warmup_steps: int = Field(0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    bf16: bool = True
    """bfloat16 autocast; parameters and optimizer stay float32."""
    gradient_checkpointing: bool = False
    save_steps: int = Field(0, ge=0)
    """Also save the student every this many steps; 0 saves it at the end alone."""
    max_nonfinite_steps: int = Field(3, ge=1)
    """Give up after this many skipped steps in a row."""
