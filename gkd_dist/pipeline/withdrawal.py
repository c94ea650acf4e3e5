"""What a teacher taught after its last good check is withdrawn: the same command must not go on with it."""

import asyncio
import logging
from collections.abc import Callable

from gkd_dist.checkpoints.store import CheckpointStore
from gkd_dist.errors import TeacherChangedError, plain
from gkd_dist.pipeline.durability import Durability

logger = logging.getLogger(__name__)


async def withdraw(refusal: TeacherChangedError, durability: Durability, narrate: Callable[[str], None]) -> None:
    """Checkpoints after the last good check are set aside, and the journal keeps nothing: it does not say when a
    sequence was scored. No save may be under way.

    Never raises, since the refusal ends the run: what cannot be withdrawn is said, with what to do about it.
    """
    store, journal, step = durability.store, durability.journal, refusal.last_good_step
    try:
        async with asyncio.timeout(durability.config.timeout_s):
            narrate(await store.disk.run(lambda: _set_aside(store, step)))
    except Exception as error:
        logger.error(
            "checkpoints after step %d could not be set aside (%s); before the same command runs again, move those of "
            "later steps out of %s: they are not to be trusted",
            step,
            plain(error),
            store.folder,
        )
    if journal is None:
        return
    try:
        async with asyncio.timeout(durability.config.timeout_s):
            await journal.keep_only(frozenset())
        narrate("the journal is emptied: what it held is sampled and scored again")
    except Exception as error:
        logger.error(
            "the journal could not be emptied (%s); before the same command runs again, remove the folder journal/ of "
            "the run: what it holds is not to be trusted",
            plain(error),
        )


def _set_aside(store: CheckpointStore, step: int) -> str:
    """What was done, and where the same command goes on."""
    aside = store.set_aside(step)
    done = f"set aside as not to be trusted: {', '.join(path.name for path in aside)}; " if aside else ""
    left = store.newest()
    return done + (
        "no checkpoint is left from before: the same command begins anew"
        if left is None
        else f"the same command goes on after step {left.step}"
    )
