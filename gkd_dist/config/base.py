"""The strict base of every configuration model."""

from pydantic import BaseModel, ConfigDict

WITHOUT_RULES = "without rules"
"""Validation context under which the rules between sections are not looked at."""

MAX_COUNT = 1_000_000
"""Of things that are counted one by one: more is a slip."""
MAX_REPLICAS = 10_000
"""Of one role, and of ranks: each has a slot that is looked after from the start."""
MAX_DURATION_S = 30 * 24 * 3600.0
"""Thirty days: what is to last for ever has a word of its own, null or 0."""


class Strict(BaseModel):
    """Unknown keys are errors, values are checked, numbers are finite, instances are frozen."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=(), allow_inf_nan=False
    )
