"""Resolved configurations, and where those of several runs differ."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

ABSENT = "(not set)"


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`learner.max_steps` -> `60`, as a recipe writes values."""
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
    return found


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(key, one value per run) where they are not all the same, in the order of the first."""
    flats = [flat(config) for config in configs]
    keys = dict.fromkeys(key for each in flats for key in each)
    rows = [(key, [each.get(key, ABSENT) for each in flats]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]
