"""A connection to a Ray cluster: one started for this run, or one that is there already."""

import logging
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import ray
from ray.exceptions import AuthenticationError

from gkd_dist.cluster.token import sources
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.errors import ResourceError, StoppedEarlyError, plain

_CONNECT_S = 5.0
_ADVICE = "start one with `ray start --head`, or use cluster.address=local"


@contextmanager
def ray_session(config: ClusterConfig, when_connected: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Connect, and disconnect at the end; a cluster started here ends with it.

    Args:
        when_connected: takes back the signals that Ray has taken for itself.

    Raises:
        ResourceError: no cluster answers at the address.
        StoppedEarlyError: SIGTERM came meanwhile.
    """
    arguments: dict[str, object] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if config.address == "local":
        # Set on purpose: a token file left behind by another cluster would switch authentication on.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray lowers its workers' priority by 15; ours are the work itself.
        os.environ.setdefault("RAY_worker_niceness", "0")
        arguments |= {"include_dashboard": False, "object_store_memory": config.object_store_bytes}
    else:
        _check_reachable(config.address)
    try:
        ray.init(address=config.address, **arguments)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(f"cluster.address: no Ray cluster at {config.address!r} ({error}); {_ADVICE}") from error
    except AuthenticationError as error:
        raise ResourceError(
            f"cluster.address: the Ray cluster at {config.address!r} asks for its token ({sources()}); set "
            "RAY_AUTH_TOKEN_PATH to the file that holds it"
        ) from error
    except SystemExit as stop:  # Ray's own answer to SIGTERM
        ray.shutdown()
        raise StoppedEarlyError(signal.SIGTERM) from stop
    try:
        when_connected()
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray 2.60 goes on asking an address that does not answer: for more than three minutes when it was tried.

    Args:
        address: as Ray takes it; one that names no host and port is Ray's to judge.

    Raises:
        ResourceError: nothing listens there, or it cannot be reached from here.
    """
    named = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    try:
        parts = urlsplit(named if "://" in named else f"ray://{named}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return
    if host is None or port is None:
        return
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError as error:
        source = " (RAY_ADDRESS)" if address == "auto" else ""
        raise ResourceError(
            f"cluster.address: no Ray cluster at {named!r}{source} ({plain(error)}); {_ADVICE}"
        ) from error


def log_folder() -> str:
    """Where the actors' own logs are."""
    return os.path.join(tempfile.gettempdir(), "ray", "session_latest", "logs")
