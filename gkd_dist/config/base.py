"""The strict base of every configuration model."""

from collections.abc import Collection

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

    @property
    def idle_keys(self) -> Collection[str]:
        """Keys that the others of this section leave without effect."""
        return ()

    def idle_paths(self) -> set[tuple[str, ...]]:
        """Paths of all keys, here and in the sections below, that the others leave without effect."""
        paths: set[tuple[str, ...]] = {(key,) for key in self.idle_keys}
        for name in type(self).model_fields:
            value = getattr(self, name)
            for where, section in [((name,), value), *_entries(name, value)]:
                if isinstance(section, Strict):
                    paths |= {(*where, *path) for path in section.idle_paths()}
        return paths


def _entries(name: str, value: object) -> list[tuple[tuple[str, ...], object]]:
    """(path, what is there) of a mapping's entries."""
    return [((name, str(key)), entry) for key, entry in value.items()] if isinstance(value, dict) else []
