"""Learner ranks as plain processes that meet at a free loopback port; no Ray."""

import multiprocessing
import queue
import socket
import traceback
from collections.abc import Callable
from typing import Any

from gkd_dist.learners.seat import RankSeat

TIMEOUT_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_ranks(program: Callable[..., Any], *arguments: Any, size: int = 2, num_lost: int = 0) -> list[Any]:
    """What `program(seat, *arguments)` returns at each rank; it must be a function of a module.

    Args:
        num_lost: so many of the last ranks die and return nothing.

    Raises:
        RuntimeError: a rank failed, with its traceback, or did not answer in time.
    """
    context = multiprocessing.get_context("forkserver")  # which imports all that once, and forks without threads
    context.set_forkserver_preload(["gkd_dist.learners.learner", "gkd_dist.learners.sharded", "transformers"])
    answers: Any = context.Queue()
    port = free_port()
    seats = [RankSeat(rank, size, "127.0.0.1", port, setup_timeout_s=60, timeout_s=60) for rank in range(size)]
    ranks = [context.Process(target=_rank, args=(answers, program, seat, arguments), daemon=True) for seat in seats]
    for process in ranks:
        process.start()
    try:
        found = {}
        for _ in range(size - num_lost):
            rank, answer, failure = answers.get(timeout=TIMEOUT_S)
            if failure:
                raise RuntimeError(f"rank {rank}: {failure}")
            found[rank] = answer
        return [found[rank] for rank in range(size - num_lost)]
    except queue.Empty:
        raise RuntimeError(f"no answer within {TIMEOUT_S:g} s") from None
    finally:
        for process in ranks:
            process.join(timeout=5)
            process.kill()


def _rank(answers: Any, program: Callable[..., Any], seat: RankSeat, arguments: tuple[Any, ...]) -> None:
    try:
        answers.put((seat.rank, program(seat, *arguments), None))
    except BaseException:
        answers.put((seat.rank, None, traceback.format_exc()))
        raise
