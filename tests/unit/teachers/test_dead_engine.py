"""A vLLM engine that dies in this process ends a request with an error of ours, for teachers and samplers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

pytest.importorskip("vllm")

from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from gkd_dist.errors import EngineError, RejectedError
from gkd_dist.samplers import vllm_sampler
from gkd_dist.teachers import vllm_engine

ENDS = [vllm_engine.last_output, vllm_sampler._last_output]


async def outputs(*numbers: int, error: Exception | None = None) -> AsyncIterator[int]:
    for number in numbers:
        yield number
    if error is not None:
        raise error


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("error", [EngineDeadError(), EngineGenerateError("out of blocks")])
def test_a_failure_of_vllm_is_an_engine_error(end, error: Exception) -> None:
    with pytest.raises(EngineError, match=rf"failed at a#1 \({type(error).__name__}: ") as caught:
        asyncio.run(end(outputs(1, error=error), "a#1"))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("end", ENDS)
def test_the_last_output_counts_and_none_is_an_engine_error(end) -> None:
    assert asyncio.run(end(outputs(1, 2), "a#1")) == 2
    with pytest.raises(EngineError, match="returned nothing for a#1"):
        asyncio.run(end(outputs(), "a#1"))


@pytest.mark.fault(42)
@pytest.mark.parametrize("end", ENDS)
def test_a_refusal_is_the_requests_own_fault(end) -> None:
    wrapped = EngineGenerateError()
    wrapped.__cause__ = ValueError("the prompt is too long")
    for error in (VLLMValidationError("the prompt is too long"), ValueError("the prompt is too long"), wrapped):
        with pytest.raises(RejectedError, match=r"refuses a#1: the prompt is too long"):
            asyncio.run(end(outputs(error=error), "a#1"))
