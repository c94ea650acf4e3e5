"""A connection to a Ray cluster: one started for this run, or one that is there already."""

import functools
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import AuthenticationError

from gkd_dist.cluster.token import sources
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.errors import DeadlineError, ResourceError, StoppedEarlyError, plain

_CONNECT_S = 5.0
_ADVICE = "start one with `ray start --head`, or use cluster.address=local"
_MODE, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"


@contextmanager
def ray_session(config: ClusterConfig, when_connected: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Connect, and disconnect at the end; a cluster started here ends with it.

    Args:
        when_connected: takes back the signals that Ray has taken for itself.

    Raises:
        ResourceError: no cluster answers at the address.
        DeadlineError: one that was to start here did not start in time.
        StoppedEarlyError: SIGTERM came meanwhile.
    """
    with _own_token() if config.address == "local" else nullcontext():
        yield from _connected(config, when_connected)


def _connected(config: ClusterConfig, when_connected: Callable[[], None]) -> Iterator[None]:
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if config.address == "local":
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
    except Exception as error:
        if type(error) is not Exception:
            raise
        # What Ray 2.60 raises where its processes have not started within 30 s.
        raise DeadlineError(
            f"cluster.address={config.address}: Ray did not start ({plain(error).removeprefix('Exception: ')}); "
            "the machine may be too busy: run the same command again when it does less"
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


@contextmanager
def _own_token() -> Iterator[None]:
    """A cluster that is started here lets in nobody but this process and its own: Ray listens on all interfaces.

    Not where the environment says how (RAY_AUTH_MODE). The token is in this process's environment and that of the
    cluster's processes, and in no file. Ray reads it once: afterwards this process can join no cluster without one.
    """
    if _MODE in os.environ:  # Ray asks for a token by itself where it is not told whether to
        yield
        return
    former = os.environ.get(_TOKEN)
    os.environ[_TOKEN] = _token()
    try:
        yield
    finally:
        os.environ.pop(_MODE, None)
        os.environ.pop(_TOKEN)
        if former is not None:
            os.environ[_TOKEN] = former


@functools.cache
def _token() -> str:
    """One per process, which Ray reads once."""
    return secrets.token_hex(32)
