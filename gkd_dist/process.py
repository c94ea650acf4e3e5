"""Environment and end of every process that computes (floor F0).

The environment is read by the C library and by OpenMP when they are loaded, so it has to be there before torch is.
"""

import ctypes
import os
import signal

DEFAULTS = {
    # Idle OpenMP threads spin for a moment (the next parallel region is microseconds away) and then sleep: the roles
    # take turns on the same cores, and a thread that spins for milliseconds keeps another role off its core.
    "GOMP_SPINCOUNT": "10000",
    # glibc keeps large buffers instead of giving them back to the kernel after every chunk of the loss, and all threads
    # share them: one that ends (`serial.SerialThread`) leaves what it has touched to the next.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


_OF_THE_DRIVER = {
    # Read when ray is imported: of a replica that dies, what Ray says in a paragraph is said here in a line.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed while executing a task",
}


def actor_environment() -> dict[str, str]:
    """For a new process; the user's own values win. It may use all cores, whatever a scheduler reserves for it."""
    defaults = DEFAULTS | {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def prepare_this_process() -> None:
    """For this process and those it starts; call before torch is imported. The allocator's settings (MALLOC_*) reach
    only the latter."""
    for name, value in (DEFAULTS | _OF_THE_DRIVER).items():
        os.environ.setdefault(name, value)


def end_with_parent() -> None:
    """The kernel ends this process as soon as the one that started it is gone, also where this one is stopped
    (SIGSTOP) and could not notice. Linux; does nothing elsewhere."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(set_parent_death_signal, int(signal.SIGKILL))
