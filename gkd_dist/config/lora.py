"""Low-rank adapters of the student; names follow peft's LoraConfig."""

from typing import Literal

from pydantic import Field, field_validator

from gkd_dist.config.base import Strict


class LoraConfig(Strict):
    """W + scale * B A on chosen projections: only A [r, in] and B [out, r] are trained (LoRA, arXiv 2106.09685)."""

    r: int = Field(default=16, ge=1)
    """Rank of every adapter."""
    lora_alpha: int = Field(default=32, ge=1)
    """scale = lora_alpha / r, or lora_alpha / sqrt(r) with `use_rslora`."""
    use_rslora: bool = False
    """Rank-stabilised scale (arXiv 2312.03732); see `lora_alpha`."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Ends of module names (`q_proj`); `all-linear` is every linear layer but the LM head."""
    lora_dropout: float = 0.0
    """Always 0: the student is trained on the distribution it samples from."""
    publish: Literal["merged", "adapter"] = "merged"
    """What samplers get after each step: all weights with the adapters added, or A and B alone, which they apply."""
    save: Literal["adapter", "merged"] = "adapter"
    """What is saved: a small peft folder that needs the base model beside it, or a whole model."""

    @field_validator("lora_dropout")
    @classmethod
    def _no_dropout(cls, value: float) -> float:
        if value:
            raise ValueError("the learner trains without dropout; set lora_dropout=0 or remove it")
        return value

    @field_validator("target_modules")
    @classmethod
    def _names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value:
            raise ValueError("no module is named; name some, or use all-linear")
        return value
