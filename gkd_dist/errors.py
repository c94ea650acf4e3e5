"""The exception tree (floor F0). Every error says what to do; all of them pickle.

GkdError                     exit 70 unless a subclass says otherwise
+-- UserError                exit 2: something the user can mend before running again
|   +-- ConfigError          one or more problems in recipe, file or override (all at once)
|   +-- DataError            a data file cannot be read or holds nothing usable
|   +-- ModelError           a model cannot be found, loaded or matched with its partner
|   +-- ResourceError        the cluster lacks what the configuration asks for
|   +-- RunError             a run directory is in use, not running, or not what a command needs
+-- WireError                a frame or message was rejected (reason in `.reason`)
+-- EngineError              a sampler, teacher or learner failed while working
|   +-- RejectedError        it refused one request, or answered it wrongly: asking again may not help
|   +-- LostTargetsError     teacher targets are gone with the node that held them: score again
|   +-- OutOfMemoryError     a part was killed because its machine ran out of memory
|   +-- RoleLostError        no replica of a role is left, or came back in time
|   +-- LearnerLostError     the learner died; its last checkpoint did not
|   +-- TeacherChangedError  a teacher no longer answers as it did: what it scored since its last good check is void
+-- StoppedError             exit 75: asked to stop, and did so with a good checkpoint
|   +-- StoppedEarlyError    exit 128 + the signal: before the first step, with nothing to save
+-- StalledError             no progress for supervision.stall_timeout_s
+-- WeightsError             published weights do not match their manifest
+-- DeadlineError            something did not answer in time
"""

import signal
from collections.abc import Sequence


class GkdError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 70


def plain(error: BaseException | None) -> str:
    """One line to read: what was raised on purpose in its own words, the machine in its own, anything else by name."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, GkdError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class UserError(GkdError):
    """Something the user can mend; shown without a traceback."""

    exit_code = 2


class ConfigError(UserError):
    """All problems found in a configuration.

    Args:
        problems: one line each, `key.path: what is wrong; what to do`.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class DataError(UserError):
    """A data set cannot be read, or nothing in it can be used."""


class ModelError(UserError):
    """A model cannot be found, loaded, or matched with its partner."""


class ResourceError(UserError):
    """The cluster does not have what the configuration asks for."""


class RunError(UserError):
    """A run directory is in use, or not in the state that a command needs."""


class WireError(GkdError):
    """A frame was rejected.

    Args:
        reason: short machine-readable word, used as a metric label (`checksum`, `truncated`, ...).
        detail: what was found and what was expected.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}" if detail else reason)

    def __reduce__(self) -> tuple[type["WireError"], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class EngineError(GkdError):
    """A sampler, teacher or learner failed while working."""


class RejectedError(EngineError):
    """One request was refused or answered wrongly; others may be fine."""


class OutOfMemoryError(EngineError):
    """A part was killed because its machine ran out of memory."""


class LostTargetsError(EngineError):
    """Teacher targets behind a handle are gone; the trajectories have to be scored again."""


class RoleLostError(EngineError):
    """No replica of a role serves any more."""


class LearnerLostError(EngineError):
    """The learner died, or did not answer in time."""


class TeacherChangedError(EngineError):
    """A teacher no longer answers as it did.

    Args:
        message: for people.
        last_good_step: train steps that were done at its last good check; what came after them is not to be trusted.
    """

    def __init__(self, message: str, last_good_step: int) -> None:
        self.last_good_step = last_good_step
        super().__init__(message)

    def __reduce__(self) -> tuple[type["TeacherChangedError"], tuple[str, int]]:
        return type(self), (str(self), self.last_good_step)


class StoppedError(GkdError):
    """The run was asked to stop and left a good checkpoint: the same command goes on from there."""

    exit_code = 75


class StoppedEarlyError(StoppedError):
    """The run was asked to stop before its first step.

    Args:
        signal_number: that asked; the exit code is 128 more, as of a process that it ended.
    """

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
        super().__init__(f"{signal.Signals(signal_number).name}: stopped before the first step; nothing to save")

    def __reduce__(self) -> tuple[type["StoppedEarlyError"], tuple[int]]:
        return type(self), (self.signal_number,)


class StalledError(GkdError):
    """Nothing moved for too long; a diagnosis was written."""


class WeightsError(GkdError):
    """Published weights do not match their manifest."""


class DeadlineError(GkdError):
    """Something did not answer in time."""
