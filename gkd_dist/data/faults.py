"""What is wrong with several rows of one file, told together (floor F2)."""

from collections.abc import Sequence

_SHOWN = 3


def told(faults: Sequence[str]) -> str:
    """The first few, one line each, and how many there are.

    Args:
        faults: at least one; each begins with its place.
    """
    lines = list(faults[:_SHOWN])
    if len(faults) > _SHOWN:
        lines.append(f"{len(faults) - _SHOWN} more rows cannot be read either, {len(faults)} in all")
    return "\n".join(lines)
