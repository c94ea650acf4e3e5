"""What each teacher transport costs, and how near its gradient comes to the exact one.

    .venv/bin/python benchmarks/transports.py [--engines hf vllm] [--rounds 3]

The quickstart's models and prompts: the student writes completions, a teacher of each engine and transport scores them
(tokens per second), its targets are encoded for the wire (bytes per completion token, GB/s), and the student's whole
gradient under them is compared with the gradient under the full float32 distribution (cosine and ratio of norms).
Writes benchmarks/transports.json.
"""

import argparse
import asyncio
import gc
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from gkd_dist.build import Blueprint
from gkd_dist.build.learner import objective_of
from gkd_dist.config.load import load_run_config
from gkd_dist.learners.load import load_student
from gkd_dist.learners.step import LossSettings, accumulate_gradient
from gkd_dist.preparation import prepare
from gkd_dist.preparation.prepared import PreparedJob
from gkd_dist.process import prepare_this_process
from gkd_dist.targets import TeacherTargets
from gkd_dist.types import SamplingParams, ScoredTrajectory, TeacherScore, TrainBatch, Trajectory
from gkd_dist.wire.codec import decode_targets, encode

RESULT = Path(__file__).with_suffix(".json")
NUM_SEQUENCES, MAX_NEW_TOKENS = 16, 64
TRANSPORTS = ("hidden", "topk 8", "topk 64", "topk 512", "full", "sampled")
LACKING = {("vllm", "full")}
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
CODEC_ROUNDS = 20


@dataclass(frozen=True)
class Case:
    """One teacher: engine, transport and precision of its model."""

    engine: str
    transport: str
    """As in TRANSPORTS: name, and K where there is one."""
    dtype: str = "bfloat16"

    def overrides(self) -> list[str]:
        name, _, top_k = self.transport.partition(" ")
        settings = [f"teacher.engine={self.engine}", f"teacher.transport={name}", f"teacher.dtype={self.dtype}"]
        if top_k:
            settings.append(f"teacher.top_k={top_k}")
        if name == "sampled":
            settings.append("objective.divergence=reverse_kl")
        return settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=["hf", "vllm"], choices=["hf", "vllm"])
    parser.add_argument("--rounds", type=int, default=3, help="timed scorings of each teacher, after one to warm up")
    arguments = parser.parse_args()
    prepare_this_process()
    job = make_job([])
    trajectories = asyncio.run(student_completions(job))
    result = {
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "torch": torch.__version__},
        "num_sequences": len(trajectories),
        "completion_tokens": count(trajectories),
        "all_tokens": sum(item.num_tokens for item in trajectories),
        "teachers": {},
        "gradients": {},
    }
    exact: dict[str, torch.Tensor] = {}
    # The full distribution first: everything else is compared with it.
    precise = [Case("hf", transport, "float32") for transport in ("full", *(t for t in TRANSPORTS if t != "full"))]
    rounded = [Case("hf", "hidden")]
    timed = [Case(engine, name) for engine in arguments.engines for name in TRANSPORTS if (engine, name) not in LACKING]
    for case in dict.fromkeys([*precise, *rounded, *timed]):
        key = f"{case.engine} {case.transport} {case.dtype}"
        print(key, flush=True)
        targets, seconds = asyncio.run(scored(case, trajectories, arguments.rounds if case in timed else 0))
        if case in timed:
            result["teachers"][key] = {**wire(targets, count(trajectories)), **speed(seconds, trajectories)}
            print(" ", json.dumps(result["teachers"][key]), flush=True)
        if case in precise or case in rounded:
            result["gradients"][key] = compare(case, trajectories, targets, exact)
            print(" ", json.dumps(result["gradients"][key]), flush=True)
        del targets
        gc.collect()
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {RESULT}")


def make_job(overrides: Sequence[str]) -> PreparedJob:
    # Gradients to full precision: the rounding of the learner's products is not what is compared here.
    fixed = ["learner.bf16=false", "cluster.mode=local", "objective.student_fraction=1", "sampler.engine=hf"]
    return prepare(load_run_config("quickstart", (*fixed, *overrides)), lambda _: None, writes=False)


async def student_completions(job: PreparedJob) -> list[Trajectory]:
    """Completions of the first held-out prompts by the student at temperature 1."""
    held_out = job.held_out("transports")
    params = SamplingParams(MAX_NEW_TOKENS, stop_token_ids=held_out.sampling.stop_token_ids, seed=0)
    sampler = job.blueprint.make_sampler()
    try:
        return await sampler.sample(held_out.prompts[:NUM_SEQUENCES], params)
    finally:
        await sampler.close()


async def scored(
    case: Case, trajectories: Sequence[Trajectory], rounds: int
) -> tuple[list[TeacherTargets], list[float]]:
    """Targets, and the wall time of `rounds` scorings after the first."""
    blueprint = make_job(case.overrides()).blueprint
    teacher = await asyncio.to_thread(blueprint.make_teacher, "teacher")
    try:
        targets = await teacher.score(trajectories)
        seconds = []
        for _ in range(rounds):
            began = time.perf_counter()
            targets = await teacher.score(trajectories)
            seconds.append(time.perf_counter() - began)
    finally:
        await teacher.close()
    return targets, seconds  # type: ignore[return-value]  # teachers of this process give no handles


def wire(targets: Sequence[TeacherTargets], num_tokens: int) -> dict[str, float]:
    """Size and speed of one message with all targets; every round writes into the same buffer."""
    frame = encode(targets)
    buffer = bytearray(frame.size)
    encode_s = best(lambda: encode(targets, out=buffer))
    decode_s = best(lambda: decode_targets(frame, max_bytes=1 << 40))
    return {
        "bytes_per_token": round(frame.size / num_tokens, 1),
        "encode_gb_per_s": round(frame.size / encode_s / 1e9, 2),
        "decode_gb_per_s": round(frame.size / decode_s / 1e9, 2),
    }


def best(work: Callable[[], Any]) -> float:
    """Median seconds of one call."""
    seconds = []
    for _ in range(CODEC_ROUNDS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def speed(seconds: Sequence[float], trajectories: Sequence[Trajectory]) -> dict[str, float]:
    return {
        "seconds": round(median(seconds), 3),
        "tokens_per_s": round(sum(item.num_tokens for item in trajectories) / median(seconds), 1),
    }


def compare(
    case: Case, trajectories: Sequence[Trajectory], targets: Sequence[TeacherTargets], exact: dict[str, torch.Tensor]
) -> dict[str, dict[str, float]]:
    """Loss, cosine and ratio of norms of the student's gradient, by divergence; fills `exact` from full targets."""
    kinds = ("reverse_kl",) if case.transport == "sampled" else DIVERGENCES
    answer = {}
    for kind in kinds:
        blueprint = make_job([*case.overrides(), f"objective.divergence={kind}"]).blueprint
        loss, gradient = gradient_of(blueprint, trajectories, targets)
        reference = exact.setdefault(kind, gradient)
        cosine = product(gradient, reference) / math.sqrt(product(gradient, gradient) * product(reference, reference))
        ratio = math.sqrt(product(gradient, gradient) / product(reference, reference))
        answer[kind] = {"loss": round(loss, 5), "cosine": round(cosine, 6), "norm_ratio": round(ratio, 4)}
    return answer


def product(left: torch.Tensor, right: torch.Tensor) -> float:
    """Inner product, summed in float64: float32 loses three digits over a hundred million entries."""
    pairs = zip(left.split(1 << 20), right.split(1 << 20), strict=True)
    return sum(torch.dot(one.double(), other.double()).item() for one, other in pairs)


def gradient_of(
    blueprint: Blueprint, trajectories: Sequence[Trajectory], targets: Sequence[TeacherTargets]
) -> tuple[float, torch.Tensor]:
    """Loss in nats and the gradient of every parameter, as one float32 vector."""
    student = load_student(blueprint.student, gradient_checkpointing=False)
    pairs = zip(trajectories, targets, strict=True)
    batch = TrainBatch(
        step=0,
        scored=tuple(ScoredTrajectory(item, (TeacherScore("teacher", target),)) for item, target in pairs),
        num_sequences=len(trajectories),
        num_tokens=count(trajectories),
    )
    settings = LossSettings(
        objective=objective_of(blueprint),
        reduction=blueprint.config.objective.reduction,
        bf16=False,
        max_micro_batch_tokens=blueprint.config.learner.max_micro_batch_tokens,
        pad_token_id=blueprint.pad_token_id,
        num_ids=blueprint.num_ids,
    )
    loss = accumulate_gradient(student, batch, settings)
    value = loss if isinstance(loss, float) else loss.loss
    return value, torch.cat([p.grad.flatten() for p in student.model.parameters() if p.grad is not None])


def count(trajectories: Sequence[Trajectory]) -> int:
    return int(np.sum([item.num_completion_tokens for item in trajectories]))


if __name__ == "__main__":
    main()
