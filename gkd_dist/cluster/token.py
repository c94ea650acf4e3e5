"""The token of a cluster with authentication, looked for where Ray looks for it, in its order.

`$RAY_AUTH_TOKEN`, then the file that `$RAY_AUTH_TOKEN_PATH` names, then `~/.ray/auth_token`
(docs.ray.io, "Ray token authentication"). The token itself is never part of a message, a dump or a job's metadata.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gkd_dist.errors import ConfigError

DEFAULT_PATH = Path("~/.ray/auth_token")
OTHERS = 0o077
"""Permissions that nobody but the owner of a token file needs."""


@dataclass(frozen=True)
class Token:
    """A token and where it came from."""

    source: str
    """For people: `$RAY_AUTH_TOKEN`, or the path of a file."""
    path: Path | None
    value: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.value}"}

    @property
    def is_open_to_others(self) -> bool:
        """Whether other users of this machine may read or change its file."""
        return self.path is not None and bool(self.path.stat().st_mode & OTHERS)


def find_token(environment: Mapping[str, str] = os.environ, *, is_asked: bool = True) -> Token | None:
    """The first one there is; None where there is none, or `RAY_AUTH_MODE=disabled` says to send none.

    Args:
        is_asked: by a cluster that wants one. To others the default file is not for: it is sent where it was named,
            or where `RAY_AUTH_MODE=token` says so.

    Raises:
        ConfigError: a source is named and holds none.
    """
    if _is_disabled(environment):
        return None
    if value := environment.get("RAY_AUTH_TOKEN", "").strip():
        return Token("$RAY_AUTH_TOKEN", None, value)
    if named := environment.get("RAY_AUTH_TOKEN_PATH"):
        return _of_file(Path(named).expanduser(), f"$RAY_AUTH_TOKEN_PATH ({named})")
    default = _default_path(environment)
    is_wanted = is_asked or environment.get("RAY_AUTH_MODE", "").lower() == "token"
    return _of_file(default, str(default)) if is_wanted and default.is_file() else None


def sources(environment: Mapping[str, str] = os.environ) -> str:
    """What was tried, for a message."""
    if _is_disabled(environment):
        return "RAY_AUTH_MODE=disabled sends none"
    return f"tried $RAY_AUTH_TOKEN, $RAY_AUTH_TOKEN_PATH and {_default_path(environment)}"


def _is_disabled(environment: Mapping[str, str]) -> bool:
    return environment.get("RAY_AUTH_MODE", "").lower() == "disabled"


def _default_path(environment: Mapping[str, str]) -> Path:
    home = environment.get("HOME")
    return Path(home) / ".ray" / "auth_token" if home else DEFAULT_PATH.expanduser()


def _of_file(path: Path, source: str) -> Token:
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError([f"{source}: the token cannot be read ({reason}); mend the path, or unset it"]) from error
    if not value:
        raise ConfigError([f"{source}: the token file is empty; write one with `ray get-auth-token --generate`"])
    return Token(source, path, value)
