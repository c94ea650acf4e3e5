"""Keys that some values of another key alone read, and what is said to those who give them elsewhere (floor F1)."""

from collections.abc import Collection, Mapping

from gkd_dist.config.base import Strict

Owners = Mapping[tuple[str, str], tuple[str, ...]]
"""(setting, value) -> keys of the same section that are read under it; a key may have several owners."""


def idle_keys(owners: Owners, section: Strict) -> set[str]:
    """Keys of `owners` that nothing reads in `section`."""
    used = {key for (setting, value), keys in owners.items() if getattr(section, setting) == value for key in keys}
    return {key for keys in owners.values() for key in keys} - used


def without_effect(owners: Owners, section: Strict, given: Collection[str]) -> list[str]:
    """One line for each setting of `section` that leaves keys which were `given` without effect."""
    idle = sorted(idle_keys(owners, section).intersection(given))
    lines = []
    for setting in dict.fromkeys(setting for setting, _ in owners):
        values = {value: keys for (name, value), keys in owners.items() if name == setting}
        unread = [key for key in idle if any(key in keys for keys in values.values())]
        if unread:
            wanted = [value for value, keys in values.items() if any(key in keys for key in unread)]
            lines.append(
                f"{setting}={getattr(section, setting)} does not use {' and '.join(unread)}; set {setting}="
                f"{' or '.join(wanted)}, or remove what it does not use"
            )
    return lines
