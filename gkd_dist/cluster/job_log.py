"""What a job has printed: told while it goes on, and read for what it says about its run."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from gkd_dist.cluster.jobs import ClusterJob, Jobs

logger = logging.getLogger(__name__)

POLL_S = 0.5
RETRY_S = 3.0
"""Where the connection to the log does not come about: a proxy may let none through."""
EXIT_LINE = "gkd: exit code "
_EXIT = re.compile(rf"^{EXIT_LINE}(\d+)$", re.MULTILINE)
_DIRECTORY = re.compile(r"^\[ *[\d.]+ s\] (?:run directory|continuing) (/.*?)(?: \(attempt \d+\).*)?$", re.MULTILINE)


def exit_code_in(log: str) -> int | None:
    """Of a command that `entrypoint_of` has started; None where it has not said it."""
    told = _EXIT.findall(log)
    return int(told[-1]) if told else None


def run_directory_in(log: str) -> str | None:
    """Path of the run directory that a job has printed; None where it has none yet."""
    found = _DIRECTORY.findall(log)
    return found[-1] if found else None


def follow(jobs: "Jobs", submission_id: str, say: Callable[[str], object]) -> "ClusterJob":
    """Tell what it prints, from its beginning to its end; the job as it then is.

    A connection that breaks on the way, as proxies end idle ones, is made again. Where there is none at all, as through
    proxies that refuse WebSockets, the log is asked for every few seconds. Nothing is told twice.

    Raises:
        ResourceError: the cluster does not answer any more.
    """
    num_told = 0

    def tell(text: str, position: int) -> None:
        nonlocal num_told
        new = text[max(0, num_told - position) :]
        if new:
            num_told = position + len(text)
            say(new)

    async def tail() -> None:
        position = 0
        async for text in jobs.tail(submission_id):
            tell(text, position)
            position += len(text)

    while True:
        num_before = num_told
        is_broken = False
        try:
            asyncio.run(tail())
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            logger.debug("%s: the log's connection broke: %s", submission_id, error)
            is_broken = True
        is_refused = is_broken and num_told == num_before
        if is_refused:
            tell(jobs.logs(submission_id), 0)
        job = jobs.info(submission_id)
        if job.has_ended and (not is_broken or num_told == num_before):
            return job
        time.sleep(RETRY_S if is_refused and not job.has_ended else POLL_S)
