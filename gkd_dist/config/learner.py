"""Optimisation; names follow transformers' TrainingArguments."""

from typing import Literal

from pydantic import AliasChoices, Field, model_validator

from gkd_dist.config.base import Strict


class LearnerConfig(Strict):
    max_steps: int = Field(default=20, ge=0)
    batch_size: int = Field(default=8, ge=1, validation_alias=AliasChoices("batch_size", "per_device_train_batch_size"))
    """Sequences per train step."""
    num_ranks: int = Field(default=1, ge=1)
    """Processes that hold parameters, gradients and optimizer together, each a part (FSDP2), and share the tokens of
    each batch. Changes memory per process, never the gradient. Each takes cluster.num_cpus_learner and
    num_gpus_learner."""
    max_micro_batch_tokens: int = Field(default=2048, ge=1)
    """Tokens per forward, padding included where there is any; changes memory, never the gradient."""
    packing: bool | None = None
    """Sequences one after the other in one row, without padding and without seeing each other. None packs wherever the
    student allows it (tried when it is loaded), true insists, false pads."""
    loss_memory_bytes: int | None = Field(default=None, ge=1)
    """For the logits of one chunk of the loss; changes its speed, never the gradient. By default 512 MiB on a CPU and
    6 GiB on a GPU."""
    learning_rate: float = Field(default=1e-4, gt=0)
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    warmup_steps: int = Field(default=0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    bf16: bool = True
    """bfloat16 autocast; parameters and optimizer stay float32."""
    gradient_checkpointing: bool = False
    save_steps: int = Field(default=0, ge=0)
    """Also save the student every this many steps; 0 saves it at the end alone."""
    max_nonfinite_steps: int = Field(default=3, ge=1)
    """Give up after this many skipped steps in a row."""

    @model_validator(mode="after")
    def _warmup_of_scheduler(self) -> "LearnerConfig":
        if self.warmup_steps and self.lr_scheduler_type == "constant":
            raise ValueError(
                "a constant learning rate has no warmup_steps; use lr_scheduler_type=constant_with_warmup, "
                "or warmup_steps=0"
            )
        return self
