"""What an answer is worth, where reinforcement is part of the objective (arXiv 2306.13649, eq. 5)."""

from typing import Literal

from pydantic import Field, model_validator

from gkd_dist.config.base import Strict
from gkd_dist.config.owners import idle_keys, without_effect

KEYS_OF = {
    ("type", "answer"): ("match",),
    ("type", "entailment"): ("model", "max_batch_size", "max_length"),
    ("type", "python"): ("function",),
}
REQUIRED = {"entailment": "model", "python": "function"}


class RewardConfig(Strict):
    type: Literal["answer", "entailment", "python"]
    """`answer`: 1 where the answer equals that of the row's completion, else 0. `entailment`: the probability, by a
    classifier, that the prompt entails the completion. `python`: a function of yours."""
    match: Literal["number", "exact"] = "number"
    """Of `answer`: compare the last numbers, or the texts. Both look at what follows `####` or stands in \\boxed{}
    first."""
    model: str | None = None
    """Of `entailment`: a transformers sequence classifier with a label `entailment`; a local folder or a hub name."""
    max_batch_size: int = Field(default=16, ge=1)
    """Of `entailment`: texts per forward."""
    max_length: int = Field(default=512, ge=8)
    """Of `entailment`: tokens of premise and hypothesis together; the premise is cut."""
    function: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        description="a function as package.module:function",
    )
    """Of `python`: called as TRL calls its reward functions, with lists by keyword. One comes with the package,
    `gkd_dist.rewards.colours_and_numbers:agreement`, for translations from English to German."""

    @property
    def source(self) -> str:
        """What it is, in words: `answer (number)`, `entailment (MODEL)`, `python (FUNCTION)`."""
        return f"{self.type} ({self.model or self.function or self.match})"

    @property
    def idle_keys(self) -> set[str]:
        """Keys that this type does not read."""
        return idle_keys(KEYS_OF, self)

    @model_validator(mode="after")
    def _keys_of_type(self) -> "RewardConfig":
        problems = without_effect(KEYS_OF, self, self.model_fields_set)
        required = REQUIRED.get(self.type)
        if required is not None and getattr(self, required) is None:
            example = "package.module:function" if required == "function" else "a folder or a hub name"
            problems.append(f"reward.type={self.type} needs reward.{required}; set it to {example}")
        if problems:
            raise ValueError("\n".join(problems))
        return self
