"""A vLLM engine that dies in this process ends a request with an error of ours."""

import asyncio
from collections.abc import AsyncIterator

import pytest

pytest.importorskip("vllm")

from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from gkd_dist.engines.vllm_engine import last_output
from gkd_dist.errors import EngineError


async def outputs(*numbers: int, error: Exception | None = None) -> AsyncIterator[int]:
    for number in numbers:
        yield number
    if error is not None:
        raise error


@pytest.mark.parametrize("error", [EngineDeadError(), EngineGenerateError("out of blocks")])
def test_a_failure_of_vllm_is_an_engine_error(error: Exception) -> None:
    with pytest.raises(EngineError, match=rf"failed at a#1 \({type(error).__name__}: ") as caught:
        asyncio.run(last_output(outputs(1, error=error), "a#1"))
    assert caught.value.__cause__ is error


def test_the_last_output_counts_and_none_is_an_engine_error() -> None:
    assert asyncio.run(last_output(outputs(1, 2), "a#1")) == 2
    with pytest.raises(EngineError, match="returned nothing for a#1"):
        asyncio.run(last_output(outputs(), "a#1"))
