"""A stored moment as people read it (floor F2)."""

from datetime import datetime


def moment(at: str) -> str:
    """In this machine's time zone: `2026-03-01 14:05:09 CET`.

    Args:
        at: UTC, ISO 8601; what is none is returned as it is.
    """
    try:
        return datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    except ValueError:
        return at
