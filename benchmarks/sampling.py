"""Measure HfSampler against transformers' `generate`, with caches that grow and with caches of fixed size.

    .venv/bin/python benchmarks/sampling.py [--rows 32] [--rounds 5]

T5s of the sizes in gkd_dist/recipes/sizes with random weights, on one thread; prompts of 8 to 30 tokens, at most 64 new
ones. A set of stop ids ends each row with a chance of 6 % a token, so rows are 17 tokens long in the mean, as captions
are. Ways take turns; CPU time of this process. `generate` samples with torch's multinomial. Writes
benchmarks/sampling.json.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounds import machine, ratio, take_turns
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

from gkd_dist.config.yaml_text import parse_yaml
from gkd_dist.data.collate import pad
from gkd_dist.samplers.hf_sampler import HfSampler
from gkd_dist.types import Prompt, SampleId, SamplingParams

RESULT = Path(__file__).with_suffix(".json")
SIZES = Path(__file__).parents[1] / "gkd_dist" / "recipes" / "sizes"
VOCABULARY, NEW_TOKENS, NUM_STOPS = 4000, 64, 240


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for size in ("t5-500k", "t5-7m"):
        with tempfile.TemporaryDirectory() as folder:
            new_model(size).save_pretrained(folder)
            results[size] = measure(folder, arguments.rows, arguments.rounds)
        print(size, json.dumps(results[size]))
    result = {"machine": machine(), "arguments": vars(arguments), "sizes": results}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def new_model(size: str) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = parse_yaml((SIZES / f"{size}.yaml").read_text())["student"]["scratch"]["config"]
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, **config))


def measure(folder: str, num_rows: int, num_rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, VOCABULARY, int(rng.integers(8, 30)), dtype=np.int32) for _ in range(num_rows)]
    prompts = [Prompt(SampleId("b", index), row) for index, row in enumerate(rows)]
    stops = list(range(VOCABULARY - NUM_STOPS, VOCABULARY))
    model = T5ForConditionalGeneration.from_pretrained(folder).eval()
    ids, mask = (torch.from_numpy(each) for each in pad(rows, 0, left=False))
    sampler = HfSampler(folder, dtype="float32", pad_token_id=0, num_ids=None)
    params = SamplingParams(NEW_TOKENS, stop_token_ids=tuple(stops))

    def generate(cache: str) -> None:
        torch.manual_seed(0)
        config = GenerationConfig(
            do_sample=True,
            top_k=0,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=stops,
            pad_token_id=0,
            decoder_start_token_id=0,
            cache_implementation=cache,
            disable_compile=True,
        )
        model.generate(input_ids=ids, attention_mask=mask.long(), generation_config=config)

    seconds = take_turns(
        {
            "generate, growing": lambda: generate("dynamic"),
            "generate, fixed": lambda: generate("static"),
            "HfSampler": lambda: asyncio.run(sampler.sample(prompts, params)),
        },
        num_rounds,
        clock=time.process_time,
    )
    return {
        "cpu_s": {name: round(sorted(values)[len(values) // 2], 4) for name, values in seconds.items()},
        "HfSampler over generate, growing": ratio(seconds, "generate, growing", "HfSampler"),
        "fixed over growing": ratio(seconds, "generate, growing", "generate, fixed"),
    }


if __name__ == "__main__":
    main()
