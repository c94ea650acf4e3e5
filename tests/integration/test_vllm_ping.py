"""A vLLM engine that dies in its own process is noticed by the process that holds it."""

import asyncio
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("vllm")

from gkd_dist.config.engine_args import ALLOWED
from gkd_dist.errors import EngineError, RejectedError
from gkd_dist.types import SamplingParams
from tests import tiny
from tests.processes import kill_all

pytestmark = pytest.mark.vllm


@pytest.mark.fault(2)
@pytest.mark.fault(42)
def test_a_dead_engine_process_fails_the_ping_of_its_living_parent(tmp_path: Path) -> None:
    from gkd_dist.samplers.vllm_sampler import VllmSampler

    tiny.save_causal(tmp_path, seed=0)

    async def work() -> None:
        before = set(psutil.Process().children(recursive=True))
        sampler = VllmSampler(str(tmp_path), dtype="float32", max_model_len=32, engine_args={}, num_ids=None)
        started = set(psutil.Process().children(recursive=True)) - before
        engines = [each for each in started if "resource_tracker" not in str(each.cmdline())]
        assert engines
        params = SamplingParams(max_new_tokens=2)
        await sampler.ping()
        assert len(await sampler.sample(tiny.prompts([3]), params)) == 1
        with pytest.raises(RejectedError, match="refuses"):
            await sampler.sample(tiny.prompts([40]), params)
        await sampler.ping()
        kill_all(engines)
        end = time.monotonic() + 30
        with pytest.raises(EngineError, match="engine died"):
            while time.monotonic() < end:
                await sampler.ping()
                await asyncio.sleep(0.1)
        await sampler.close()

    asyncio.run(work())


def test_engine_arguments_that_may_be_set_are_vllms() -> None:
    from dataclasses import fields

    from vllm.engine.arg_utils import AsyncEngineArgs

    assert {field.name for field in fields(AsyncEngineArgs)} >= ALLOWED
