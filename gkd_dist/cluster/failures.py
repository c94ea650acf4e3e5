"""What a failed call of an actor means."""

import logging

from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError
from ray.exceptions import OutOfMemoryError as KilledForMemory

from gkd_dist.errors import EngineError, GkdError, OutOfMemoryError, plain

logger = logging.getLogger(__name__)

_OF_THE_MACHINE = (OSError, MemoryError)
"""A disk, a port, a file or memory: not what was asked for. Silence (TimeoutError) is an OSError."""


def failure_of(
    error: RayError,
    name: str,
    what: str,
    *,
    died: type[EngineError] = EngineError,
    lost: type[EngineError] = EngineError,
    unknown: type[EngineError] = EngineError,
) -> GkdError:
    """The error that the part raised on purpose, else one of ours with one line of reason.

    Ray's messages run over many lines (remote traceback, ids, addresses); those are logged at debug level.

    Args:
        name: of the part.
        what: it was asked to do, as in `sample`.
        died: stands for the death of the actor.
        lost: stands for the loss of objects that it was to work on, or of its answer.
        unknown: stands for an exception that nobody raises on purpose.
    """
    if isinstance(error, RayTaskError) and isinstance(error.cause, GkdError):
        return error.cause
    logger.debug("%s, asked to %s: %s", name, what, error)
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, ObjectLostError):
        return lost(f"{name} could not {what}: an object is gone with its node ({type(cause).__name__})")
    if isinstance(error, RayTaskError):
        kind = EngineError if isinstance(cause, _OF_THE_MACHINE) else unknown
        return kind(f"{name} failed to {what}: {plain(cause)}")
    if isinstance(error, KilledForMemory):  # to Ray no RayActorError
        kind = OutOfMemoryError if died is EngineError else died
        return kind(f"{name} died while asked to {what}: out of memory: {_first_line(str(error))}")
    if isinstance(error, RayActorError):
        return died(f"{name} died while asked to {what}: {_first_line(str(error))}")
    return EngineError(f"{name} failed to {what}: {type(error).__name__}: {_first_line(str(error))}")


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
