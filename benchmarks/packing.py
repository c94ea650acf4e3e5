"""Measure packing: share of useful tokens and tokens per second, packed against padded, side by side in one process.

    .venv/bin/python benchmarks/packing.py [--layers 4] [--rounds 5]

Sequences of log-normal length go forwards and backwards through the body of a student (SmolLM2-135M's shape, random
weights; the loss over the vocabulary is left out, since it sees the same completion tokens either way). Providers take
turns, round after round; the first round is discarded. Writes benchmarks/packing.json.

    packed    one row per forward, `learner.max_micro_batch_tokens` tokens in it
    sorted    padded, rows of similar length, at most as many tokens per forward
    fixed     padded, 8 rows per forward in the order in which they come
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from counts import positive
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gkd_dist.learners.layouts import Layout, PackedLayout, PaddedLayout, packing_problem
from gkd_dist.learners.load import load_student
from gkd_dist.learners.model import StudentModel
from gkd_dist.types import FinishReason, SampleId, Source, Trajectory, VersionRange

RESULT = Path(__file__).with_suffix(".json")
FIXED_ROWS = 8
MAX_TOKENS = 2048
MEDIAN_TOKENS, SIGMA, LONGEST = 160, 0.7, 1024
VOCABULARY = 512


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=positive, default=4)
    parser.add_argument("--sequences", type=positive, default=32)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--float32", action="store_true", help="without bfloat16 autocast")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        student = load_student(
            save(Path(folder), arguments.layers), gradient_checkpointing=False, device=arguments.device
        )
    if problem := packing_problem(student):
        raise SystemExit(problem)
    result = {
        "machine": {
            "device": arguments.device,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "platform": platform.platform(),
            "torch": torch.__version__,
        },
        "arguments": vars(arguments),
        "max_tokens": MAX_TOKENS,
        "cases": {
            "log_normal": measure(student, sequences(arguments.sequences, SIGMA), arguments),
            "equal": measure(student, sequences(arguments.sequences, 0.0), arguments),
        },
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["cases"], indent=2), f"\nwritten to {RESULT}")


def measure(student: StudentModel, trajectories: list[Trajectory], arguments: argparse.Namespace) -> dict[str, object]:
    """All providers on the same sequences, taking turns."""
    lengths = [item.num_tokens for item in trajectories]
    padded, packed = PaddedLayout(), PackedLayout()
    fixed = [list(range(start, min(start + FIXED_ROWS, len(lengths)))) for start in range(0, len(lengths), FIXED_ROWS)]
    providers = {
        "packed": (packed, packed.groups(trajectories, MAX_TOKENS)),
        "sorted": (padded, padded.groups(trajectories, MAX_TOKENS)),
        "fixed": (padded, fixed),
    }
    computed = {
        name: tokens_embedded(student, step(student, layout, groups, trajectories, not arguments.float32))
        for name, (layout, groups) in providers.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in providers}
    for _ in range(arguments.rounds + 1):
        for name, (layout, groups) in providers.items():
            work = step(student, layout, groups, trajectories, not arguments.float32)
            seconds[name].append(timed(work, arguments.device))
    return {
        "lengths": {"median": statistics.median(lengths), "longest": max(lengths), "total": sum(lengths)},
        "providers": {
            name: {
                "forwards": len(groups),
                "useful_token_share": round(sum(lengths) / computed[name], 4),
                "median_s": round(statistics.median(seconds[name][1:]), 3),
                "useful_tokens_per_s": round(sum(lengths) / statistics.median(seconds[name][1:]), 1),
                "seconds": [round(value, 3) for value in seconds[name][1:]],
            }
            for name, (_, groups) in providers.items()
        },
        "packed_over": {name: round(ratio(seconds, name), 3) for name in ("sorted", "fixed")},
    }


def sequences(number: int, sigma: float) -> list[Trajectory]:
    """Random tokens; a quarter of each sequence is its prompt."""
    rng = np.random.default_rng(0)
    found = []
    for index, length in enumerate(np.exp(rng.normal(np.log(MEDIAN_TOKENS), sigma, number))):
        total = int(np.clip(length, 8, LONGEST))
        ids = rng.integers(3, VOCABULARY, total, dtype=np.int32)
        prompt, completion = ids[: total // 4], ids[total // 4 :]
        found.append(
            Trajectory(
                sample_id=SampleId("packing", index),
                prompt_ids=prompt,
                completion_ids=completion,
                source=Source.STUDENT,
                finish_reason=FinishReason.LENGTH,
                behaviour_log_probs=np.zeros(completion.size, dtype=np.float32),
                versions=VersionRange(0, 0),
            )
        )
    return found


def save(folder: Path, num_layers: int) -> Path:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=num_layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2 * LONGEST,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {f"w{number}": number for number in range(VOCABULARY)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="w0").save_pretrained(folder)
    return folder


def step(
    student: StudentModel, layout: Layout, groups: list[list[int]], trajectories: list[Trajectory], bf16: bool
) -> Callable[[], None]:
    """All sequences forwards and backwards, group by group."""

    def work() -> None:
        student.model.zero_grad(set_to_none=True)
        for group in groups:
            with torch.autocast(student.device.type, torch.bfloat16, enabled=bf16):
                hidden = layout.completion_hidden(student, [trajectories[index] for index in group], pad_token_id=0)
            hidden.float().square().sum().backward()

    return work


def timed(work: Callable[[], None], device: str) -> float:
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def tokens_embedded(student: StudentModel, work: Callable[[], None]) -> int:
    """Tokens that go through the model during `work`, padding included."""
    seen = 0

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += inputs[0].numel()

    hook = student.model.get_input_embeddings().register_forward_pre_hook(count)
    work()
    hook.remove()
    return seen


def ratio(seconds: dict[str, list[float]], name: str) -> float:
    """How much faster packed is: median over rounds of the ratio within a round."""
    pairs = zip(seconds[name][1:], seconds["packed"][1:], strict=True)
    return statistics.median(other / packed for other, packed in pairs)


if __name__ == "__main__":
    main()
