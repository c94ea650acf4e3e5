"""The strict base of every configuration model."""

from pydantic import BaseModel, ConfigDict

WITHOUT_RULES = "without rules"
"""Validation context under which the rules between sections are not looked at."""


class Strict(BaseModel):
    """Unknown keys are errors, values are checked, numbers are finite, instances are frozen."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=(), allow_inf_nan=False
    )
