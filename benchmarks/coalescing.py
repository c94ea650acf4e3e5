"""Measure rows that are asked for one by one: each a batch of its own, against those that wait sharing one.

    .venv/bin/python benchmarks/coalescing.py [--rows 32] [--rounds 3] [--causal]

The ring of mode=async asks a sampler and a teacher for one row at a time, many at once. The model is a T5 of 7 million
parameters with random weights, or a Llama of similar sizes; prompts have 8 to 30 tokens, completions 32. Ways take
turns, round after round; the first round is discarded. Wall time is that of a machine that may have other work;
CPU time is this process's. Writes benchmarks/coalescing.json.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from gkd_dist.samplers.hf_sampler import HfSampler
from gkd_dist.teachers.hf_teacher import HfTeacher
from gkd_dist.types import FinishReason, Prompt, SampleId, SamplingParams, Source, Trajectory

RESULT = Path(__file__).with_suffix(".json")
VOCABULARY, WIDTH, LAYERS, NEW_TOKENS = 4000, 256, 4, 32

Way = Callable[[], Awaitable[object]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--causal", action="store_true", help="a Llama instead of the T5")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        new_model(arguments.causal).save_pretrained(folder)
        seconds = asyncio.run(measure(folder, arguments.rows, arguments.rounds + 1))
    num_tokens = arguments.rows * NEW_TOKENS
    result = {
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "torch": torch.__version__},
        "arguments": vars(arguments),
        "completion_tokens_per_s": {
            name: {
                kind: round(num_tokens / statistics.median(each[kind] for each in taken[1:]), 1)
                for kind in ("wall", "cpu")
            }
            for name, taken in seconds.items()
        },
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["completion_tokens_per_s"], indent=2), f"\nwritten to {RESULT}")


def new_model(causal: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    if causal:
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2 * LAYERS,
            num_attention_heads=4,
        )
        return LlamaForCausalLM(config)
    sizes = {"d_model": WIDTH, "d_kv": 64, "d_ff": 2 * WIDTH, "num_layers": LAYERS, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, **sizes))


async def measure(folder: str, num_rows: int, num_rounds: int) -> dict[str, list[dict[str, float]]]:
    """Wall and CPU seconds of each way to ask for all rows, round by round."""
    prompts, pairs = rows(num_rows)
    params = SamplingParams(NEW_TOKENS, seed=1)
    alone, together = (
        HfSampler(folder, dtype="float32", pad_token_id=0, num_ids=None, max_batch_size=size) for size in (1, num_rows)
    )
    teacher = HfTeacher(folder, dtype="float32", transport="hidden", pad_token_id=0)

    async def one_after_the_other() -> None:
        for pair in pairs:
            await teacher.score([pair])

    ways: dict[str, Way] = {
        "sampling, a batch each": lambda: asyncio.gather(*(alone.sample([each], params) for each in prompts)),
        "sampling, shared batches": lambda: asyncio.gather(*(together.sample([each], params) for each in prompts)),
        "scoring, a batch each": one_after_the_other,
        "scoring, shared batches": lambda: asyncio.gather(*(teacher.score([each]) for each in pairs)),
    }
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(num_rounds):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            await way()
            seconds[name].append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu})
    return seconds


def rows(number: int) -> tuple[list[Prompt], list[Trajectory]]:
    """Prompts, and pairs of these with random completions."""
    rng = np.random.default_rng(0)
    prompts = [
        Prompt(SampleId("b", index), rng.integers(3, VOCABULARY, int(rng.integers(8, 30)), dtype=np.int32))
        for index in range(number)
    ]
    pairs = [
        Trajectory(
            sample_id=prompt.sample_id,
            prompt_ids=prompt.token_ids,
            completion_ids=rng.integers(3, VOCABULARY, NEW_TOKENS, dtype=np.int32),
            source=Source.GROUND_TRUTH,
            finish_reason=FinishReason.LENGTH,
        )
        for prompt in prompts
    ]
    return prompts, pairs


if __name__ == "__main__":
    main()
