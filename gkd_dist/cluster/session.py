"""A connection to a Ray cluster: one started for this run, or one that is there already."""

import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError

from gkd_dist.cluster.token import sources
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.errors import ResourceError, StoppedEarlyError


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
    try:
        ray.init(address=config.address, **arguments)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"cluster.address: no Ray cluster at {config.address!r} ({error}); "
            "start one with `ray start --head`, or use cluster.address=local"
        ) from error
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


def log_folder() -> str:
    """Where the actors' own logs are."""
    return os.path.join(tempfile.gettempdir(), "ray", "session_latest", "logs")
