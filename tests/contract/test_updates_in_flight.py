"""Weights that change while a real vLLM engine writes: which version wrote which token, and with which keys."""

import asyncio
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from gkd_dist.errors import ConfigError, EngineError, WeightsError
from gkd_dist.interfaces import Sampler
from gkd_dist.types import SampleId, SamplingParams, Trajectory, VersionRange
from gkd_dist.weights.publisher import WeightPublisher
from tests import tiny

pytestmark = pytest.mark.vllm

NUM_SEATS = 4
LONG = SamplingParams(max_new_tokens=400, temperature=1.0, seed=5)
SHORT = SamplingParams(max_new_tokens=3, temperature=1.0, seed=5)
NEAR = 1e-3
"""Nats between two float32 programs on the same weights; other weights, or other keys, are far beyond it."""

KvCache = Literal["keep", "recompute"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("students")
    return tiny.save_causal(folder / "old", seed=1), tiny.save_causal(folder / "new", seed=2)


def start(model: Path, kv_cache: KvCache, **engine_args: object) -> Sampler:
    from gkd_dist.samplers.vllm_sampler import VllmSampler

    args = {"max_num_seqs": NUM_SEATS, "max_num_batched_tokens": 520, **engine_args}
    return VllmSampler(
        str(model), dtype="float32", max_model_len=512, engine_args=args, num_ids=None, kv_cache=kv_cache
    )


@torch.no_grad()
def gaps(path: Path, item: Trajectory) -> np.ndarray:
    """[L] how far the behaviour log-probs are from those of the model in `path`."""
    model = AutoModelForCausalLM.from_pretrained(path)
    tokens = torch.from_numpy(np.concatenate([item.prompt_ids, item.completion_ids])).long()
    log_probs = torch.log_softmax(model(tokens[None]).logits[0, item.prompt_ids.size - 1 : -1], dim=-1)
    own = log_probs.gather(1, torch.from_numpy(item.completion_ids.copy()).long()[:, None])[:, 0].numpy()
    return np.abs(own - item.behaviour_log_probs)


async def interleave(
    model: Path, new: Path, kv_cache: KvCache
) -> tuple[list[Trajectory], list[Trajectory], list[Trajectory]]:
    """What was being written during an update; what waited for a seat meanwhile; and what began after it.

    Three sequences are written when a fourth, short one has come back; then more are begun than there are seats left,
    and then the weights change.
    """
    named = list(AutoModelForCausalLM.from_pretrained(new).named_parameters())
    publication = WeightPublisher("test", bucket_bytes=1 << 16, dtype="float32").publish(named, 1)
    prompts = tiny.prompts([5, 9, 30, 260, 4, 6, 7])
    sampler = start(model, kv_cache)
    try:
        running = asyncio.create_task(sampler.sample(prompts[:3], LONG))
        await sampler.sample(prompts[3:4], SHORT)
        again = replace(prompts[3], sample_id=SampleId("again", 3))
        waiting = asyncio.create_task(sampler.sample([*prompts[4:], again], LONG))
        assert await sampler.load_weights(publication) == 1
        after = await sampler.sample(prompts[3:4], SHORT)
        return await running, (await waiting)[1:], after
    finally:
        await sampler.close()


@pytest.mark.parametrize("kv_cache", ["keep", "recompute"])
def test_versions_are_those_of_the_first_and_the_last_token(models: tuple[Path, Path], kv_cache: KvCache) -> None:
    old, new = models
    running, waiting, after = asyncio.run(interleave(old, new, kv_cache))
    for item in running:
        assert item.versions == VersionRange(0, 1)
        by_old, by_new = gaps(old, item) < NEAR, gaps(new, item) < NEAR
        first_new = int(np.argmin(by_old))
        assert 0 < first_new < item.num_completion_tokens
        # The tokens after the update have seen the new weights alone, or, with the former keys, neither model's.
        assert by_new[first_new:].all() == (kv_cache == "recompute")
    shared = waiting.pop()
    # Its prompt lay in the cache, read by the former weights; where keys are kept it was taken from there.
    assert shared.versions == VersionRange(0 if kv_cache == "keep" else 1, 1)
    assert (gaps(new, shared) < NEAR).all() == (kv_cache == "recompute")
    for item in waiting:
        assert item.versions == VersionRange(1, 1)
        assert (gaps(new, item) < NEAR).all()
    for item in after:
        # The same prompt was read by the former weights while others held its cache in place.
        assert item.versions == VersionRange(1, 1)
        assert (gaps(new, item) < NEAR).all()


def test_an_update_that_breaks_off_in_the_engine_says_so_and_the_next_one_heals(
    models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gkd_dist.weights import vllm_receiver

    def nameless(*given: Any) -> dict[str, Any]:
        info = update_info(*given)
        info["tensors"][-1]["name"] = "model.elsewhere"
        return info

    update_info = vllm_receiver.update_info
    named = list(AutoModelForCausalLM.from_pretrained(models[1]).named_parameters())
    publisher = WeightPublisher("test", bucket_bytes=1 << 16, dtype="float32")
    prompts = tiny.prompts([5, 9])

    async def scenario() -> list[Trajectory]:
        sampler = start(models[0], "keep")
        try:
            with monkeypatch.context() as patch:
                patch.setattr(vllm_receiver, "update_info", nameless)
                with pytest.raises(WeightsError, match=r"loading version 1 failed: .*named 'elsewhere'"):
                    await sampler.load_weights(publisher.publish(named, 1))
            with pytest.raises(EngineError, match="no complete weights"):
                await sampler.sample(prompts, SHORT)
            await sampler.load_weights(publisher.publish(named, 2))
            return await sampler.sample(prompts, SHORT)
        finally:
            await sampler.close()

    for item in asyncio.run(scenario()):
        assert item.versions == VersionRange(2, 2)
        assert (gaps(models[1], item) < NEAR).all()


def test_the_pinned_engine_can_be_paused_without_a_sleep() -> None:
    """Else updates fall back to the public way, which is slower and right."""
    from vllm.v1.engine.core_client import AsyncMPClient

    assert {"mode", "clear_cache"} <= inspect.signature(AsyncMPClient.pause_scheduler_async).parameters.keys()


def test_recomputing_in_parts_is_refused_on_cpu_by_its_key(models: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match=r"sampler\.engine_args\.enable_chunked_prefill.*weights\.kv_cache=keep"):
        start(models[0], "recompute", enable_chunked_prefill=True)
