"""What an answer is worth, where reinforcement is part of the objective (arXiv 2306.13649, eq. 5)."""

from typing import Literal

from pydantic import Field, model_validator

from gkd_dist.config.base import Strict

KEYS_OF = {
    "answer": ("match",),
    "entailment": ("model", "max_batch_size", "max_length"),
    "python": ("function",),
}
"""What each type of reward reads."""
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
    """Of `python`: called as TRL calls its reward functions, with lists by keyword."""

    @property
    def source(self) -> str:
        """What it is, in words: `answer (number)`, `entailment (MODEL)`, `python (FUNCTION)`."""
        return f"{self.type} ({self.model or self.function or self.match})"

    @property
    def idle_keys(self) -> set[str]:
        """Keys that this type does not read."""
        return {key for keys in KEYS_OF.values() for key in keys} - set(KEYS_OF[self.type])

    @model_validator(mode="after")
    def _keys_of_type(self) -> "RewardConfig":
        problems = []
        idle = sorted(self.idle_keys & self.model_fields_set)
        if idle:
            owners = dict.fromkeys(kind for kind, keys in KEYS_OF.items() for key in keys if key in idle)
            problems.append(
                f"reward.type={self.type} does not use {' and '.join(idle)}; remove what it does not use, or set "
                f"reward.type={' or '.join(owners)}"
            )
        required = REQUIRED.get(self.type)
        if required is not None and getattr(self, required) is None:
            example = "package.module:function" if required == "function" else "a folder or a hub name"
            problems.append(f"reward.type={self.type} needs reward.{required}; set it to {example}")
        if problems:
            raise ValueError("\n".join(problems))
        return self
