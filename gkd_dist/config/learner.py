"""Optimisation; names follow transformers' TrainingArguments."""

from typing import Literal

from pydantic import AliasChoices, Field, model_validator

from gkd_dist.config.base import MAX_REPLICAS, Strict


class LearnerConfig(Strict):
    max_steps: int = Field(default=20, ge=0)
    """Train steps of the whole run; 0 trains none."""
    batch_size: int = Field(default=8, ge=1, validation_alias=AliasChoices("batch_size", "per_device_train_batch_size"))
    """Sequences per train step."""
    num_ranks: int = Field(default=1, ge=1, le=MAX_REPLICAS)
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
    """Largest of the schedule."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """`adafactor` keeps less state beside each parameter."""
    scale_parameter: bool = False
    """Of `adafactor`: steps relative to the size of each parameter, as T5 is trained; `learning_rate` is then that
    share, such as 3e-2 for a small model from random weights."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled; of matrices, not of biases and norms."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Of `adamw`."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """Of `adamw`."""
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine", "warmup_stable_decay"] = (
        "constant_with_warmup"
    )
    """`warmup_stable_decay`: up over `warmup_steps`, constant, and to 0 over the last `decay_steps`, both linear."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps from 0 to `learning_rate`, in a straight line."""
    decay_steps: int = Field(default=0, ge=0)
    """Of `warmup_stable_decay`: how long the fall is that ends with the run."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share that is dropped at random wherever the student's configuration knows a dropout, while it learns alone; with
    one, the gradient depends on how a batch is split."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """A larger gradient is scaled down to this norm."""
    bf16: bool = True
    """bfloat16 autocast; parameters and optimizer stay float32."""
    gradient_checkpointing: bool = False
    """Compute the forward again in the backward pass: less memory, more time."""
    save_steps: int = Field(default=0, ge=0)
    """Also save the student every this many steps; 0 saves it at the end alone."""
    max_nonfinite_steps: int = Field(default=3, ge=1)
    """Give up after this many skipped steps in a row."""

    @model_validator(mode="after")
    def _steps_of_scheduler(self) -> "LearnerConfig":
        problems = []
        if self.warmup_steps and self.lr_scheduler_type == "constant":
            problems.append(
                "a constant learning rate has no warmup_steps; use lr_scheduler_type=constant_with_warmup, "
                "or warmup_steps=0"
            )
        decays = self.lr_scheduler_type == "warmup_stable_decay"
        if self.decay_steps and not decays:
            problems.append(
                f"lr_scheduler_type={self.lr_scheduler_type} has no decay_steps; use "
                "lr_scheduler_type=warmup_stable_decay, or decay_steps=0"
            )
        if decays and not self.decay_steps:
            problems.append(
                "lr_scheduler_type=warmup_stable_decay needs decay_steps; give the length of the fall at the end, or "
                "use lr_scheduler_type=constant_with_warmup"
            )
        if decays and self.warmup_steps + self.decay_steps > self.max_steps:
            problems.append(
                f"warmup_steps ({self.warmup_steps}) and decay_steps ({self.decay_steps}) are more than max_steps "
                f"({self.max_steps}); lower them, or raise max_steps"
            )
        if self.scale_parameter and self.optimizer != "adafactor":
            problems.append(
                f"optimizer={self.optimizer} has no scale_parameter; use optimizer=adafactor, or scale_parameter=false"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self
