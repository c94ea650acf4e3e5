"""A vLLM engine that dies in this process ends a request with an error of ours."""

import asyncio
from collections.abc import AsyncIterator

import pytest

pytest.importorskip("vllm")

from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from gkd_dist.engines.vllm_engine import last_output
from gkd_dist.errors import EngineError, RejectedError


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


@pytest.mark.fault(42)
def test_a_refusal_is_the_requests_own_fault() -> None:
    wrapped = EngineGenerateError()
    wrapped.__cause__ = ValueError("the prompt is too long")
    for error in (VLLMValidationError("the prompt is too long"), ValueError("the prompt is too long"), wrapped):
        with pytest.raises(RejectedError, match=r"refuses a#1: the prompt is too long"):
            asyncio.run(last_output(outputs(error=error), "a#1"))
