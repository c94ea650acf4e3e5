"""The address of a Ray cluster's dashboard, as people write it."""

from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

import requests

from gkd_dist.errors import ResourceError, plain

DEFAULT_PORT = 8265
ADVICE = "start a cluster with `ray start --head`, or name the address of a dashboard with --address"
_CONNECT_S = 5.0


def url_of(address: str) -> str:
    """`http://HOST:PORT` of `HOST`, `HOST:PORT`, a URL, or `auto`, which is this machine.

    Raises:
        ResourceError: it is none.
    """
    url = "http://127.0.0.1" if address == "auto" else address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ResourceError(f"--address: not an address ({error}); write http://HOST:8265") from error
    if parts.scheme not in ("http", "https"):
        raise ResourceError(f"--address: {parts.scheme}:// is no address of a dashboard; write http://HOST:8265")
    if parts.username or parts.password:
        raise ResourceError("--address: must hold no user name or password; a token comes from RAY_AUTH_TOKEN_PATH")
    if not parts.hostname:
        raise ResourceError("--address: names no host; write http://HOST:8265")
    needs_port = port is None and parts.scheme == "http" and not parts.path.strip("/")
    return url.rstrip("/") + (f":{DEFAULT_PORT}" if needs_port else "")


def asks_for_token(url: str) -> bool:
    """Whether the dashboard wants one. Through the environment's proxies, as all requests go, and with a limit: Ray's
    own client waits without end for a host that does not answer.

    Raises:
        ResourceError: nothing answers.
    """
    try:
        answer = requests.get(f"{url}/api/version", timeout=_CONNECT_S, allow_redirects=False)
    except requests.Timeout as error:
        raise ResourceError(f"{url}: no Ray dashboard answers (not within {_CONNECT_S:g} s); {ADVICE}") from error
    except requests.RequestException as error:
        raise ResourceError(f"{url}: no Ray dashboard answers ({plain(_reason(error))}); {ADVICE}") from error
    return answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def is_open_line(url: str) -> bool:
    """Whether others can read what is sent: no TLS, and not within this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return False
    try:
        return not ip_address(parts.hostname or "").is_loopback
    except ValueError:  # a name
        return True


def _reason(error: BaseException) -> BaseException:
    """The system's own error below those of the libraries, where it is one of the system."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.strerror:
            return below
        below = below.__cause__ or below.__context__
    return error
