"""A probe that is called off at the moment of a death: the error is handed on, and never left unseen."""

import asyncio
import gc
from typing import Any

import pytest

from gkd_dist.cluster.actors import Shell
from gkd_dist.cluster.launchers import ActorLauncher, Needs
from gkd_dist.errors import DeadlineError, EngineError


class Dying:
    """Its ping ends in an error when it is cancelled, as an answer that was on its way does."""

    async def ping(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise EngineError("died while asked to answer a ping") from None


class Silent:
    async def ping(self) -> None:
        await asyncio.Event().wait()


def launcher(probe_timeout_s: float) -> ActorLauncher[Any]:
    return ActorLauncher(
        "part {}".format,
        Shell,
        (),
        lambda *_: None,
        needs=Needs(),
        environment={},
        startup_timeout_s=1,
        probe_timeout_s=probe_timeout_s,
    )


def test_no_error_of_a_cancelled_probe_is_left_unseen() -> None:
    unseen: list[dict[str, Any]] = []

    async def check() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        probe = asyncio.create_task(launcher(60).probe(Dying()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        del probe
        gc.collect()

    asyncio.run(check())
    gc.collect()
    assert unseen == []


def test_silence_is_a_deadline_error() -> None:
    with pytest.raises(DeadlineError, match=r"no answer to a ping within 0\.01 s"):
        asyncio.run(launcher(0.01).probe(Silent()))
