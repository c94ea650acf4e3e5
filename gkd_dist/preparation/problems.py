"""Problems of several checks, told all at once (floor F5)."""

from collections.abc import Callable
from typing import TypeVar

from gkd_dist.errors import ConfigError, UserError

T = TypeVar("T")


def collect(problems: list[str], check: Callable[[], T], prefix: str = "") -> T | None:
    """The result of `check`, or None with its problems noted, behind `prefix` where they do not name a key."""
    try:
        return check()
    except ConfigError as error:
        problems.extend(error.problems)
    except UserError as error:
        problems.append(f"{prefix}{error}")
    return None
