"""Measure what one learner rank holds: bytes of parameters and optimizer with 1 and with 2 ranks, and its peak memory.

    .venv/bin/python benchmarks/learner_ranks.py [--layers 30] [--ranks 1 2]

A student of SmolLM2-135M's shape with random weights trains two steps in float32 with AdamW, on plain processes that
meet over gloo, and is published in bfloat16. Writes benchmarks/learner_ranks.json. Seconds are not reported: ranks that
share the cores of one machine show nothing about ranks that do not.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gkd_dist.cluster.learner_ranks import rank_environment
from gkd_dist.cluster.shares import shares
from gkd_dist.config.learner import LearnerConfig
from gkd_dist.divergences import ForwardKl
from gkd_dist.learners.layouts import PackedLayout
from gkd_dist.learners.learner import GkdLearner
from gkd_dist.learners.load import load_student
from gkd_dist.learners.model import StudentModel
from gkd_dist.learners.objective import Distillation
from gkd_dist.learners.seat import RankSeat
from gkd_dist.learners.sharded import shard
from gkd_dist.learners.step import LossSettings
from gkd_dist.learners.targets import TargetRules, TeacherView
from gkd_dist.learners.world import ALONE, RankGroup
from gkd_dist.process import actor_environment
from gkd_dist.targets import TopKTargets
from gkd_dist.types import (
    FinishReason,
    SampleId,
    ScoredTrajectory,
    Source,
    TeacherScore,
    TrainBatch,
    Trajectory,
    VersionRange,
)
from gkd_dist.weights.publisher import WeightPublisher

RESULT = Path(__file__).with_suffix(".json")
VOCABULARY = 49152
SEQUENCES, PROMPT, COMPLETION, TOP_K = 4, 8, 16, 8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), arguments.layers)
        found = {}
        for size in arguments.ranks:
            environment = actor_environment()
            os.environ.update(rank_environment(environment) if size > 1 else environment)
            found[str(size)] = measure(Path(folder), size)
    machine = {"cores": os.cpu_count(), "platform": platform.platform(), "torch": torch.__version__}
    RESULT.write_text(json.dumps({"machine": machine, "layers": arguments.layers, "ranks": found}, indent=1) + "\n")
    for size, ranks in found.items():
        for rank in ranks:
            print(size, {name: f"{value / 2**20:.0f} MiB" for name, value in rank.items() if name.endswith("_bytes")})
            print(size, "losses", rank["losses"])


def save(folder: Path, num_layers: int) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=num_layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = models.WordLevel({"<unk>": 0}, unk_token="<unk>")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), unk_token="<unk>").save_pretrained(folder)


def measure(folder: Path, size: int) -> list[dict[str, Any]]:
    """What each of `size` ranks holds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    seats = [RankSeat(rank, size, "127.0.0.1", port, setup_timeout_s=120, timeout_s=120) for rank in range(size)]
    with multiprocessing.get_context("spawn").Pool(size, maxtasksperchild=1) as pool:
        return pool.starmap(train, [(folder, seat) for seat in seats], chunksize=1)


def train(folder: Path, seat: RankSeat) -> dict[str, Any]:
    torch.set_num_threads(1)
    group = RankGroup(seat) if seat.size > 1 else None
    student = load_student(folder, gradient_checkpointing=False)
    settings = LossSettings(
        objective=Distillation(ForwardKl(), {"teacher": TeacherView(None, 1.0)}, TargetRules(VOCABULARY)),
        reduction="sequence_mean",
        bf16=False,
        max_micro_batch_tokens=64,
        pad_token_id=0,
        num_ids=VOCABULARY,
        layout=PackedLayout(),
        loss_memory_bytes=64 << 20,
    )
    learner = GkdLearner(
        shard(student, group) if group else student,
        source=folder,
        config=LearnerConfig(bf16=False, max_steps=2),
        settings=settings,
        publisher=WeightPublisher("benchmark", 64 << 20, "bfloat16"),
        world=group or ALONE,
    )
    loaded = peak_bytes()

    async def steps() -> tuple[list[float], int]:
        losses = [(await learner.train(shares(batch(step), seat.size)[seat.rank])).loss for step in range(2)]
        publication = await learner.publish()
        await learner.close()
        return losses, publication.manifest.num_bytes

    losses, published = asyncio.run(steps())
    return {
        "parameter_bytes": held(student),
        "optimizer_bytes": sum(
            local(value).nbytes
            for values in learner._optimizer.state.values()
            for value in values.values()
            if isinstance(value, Tensor)
        ),
        "published_bytes": published,
        "loading_peak_bytes": loaded,
        "peak_bytes": peak_bytes(),
        "resident_bytes": psutil.Process().memory_info().rss,
        "losses": losses,
    }


def peak_bytes() -> int:
    """Most main memory that this process ever had, libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def batch(step: int) -> TrainBatch:
    rng = np.random.default_rng(0)
    ids = np.tile(np.arange(TOP_K, dtype=np.int32), (COMPLETION, 1))
    targets = TopKTargets(ids, np.full(ids.shape, -np.log(2 * TOP_K), np.float32))
    scored = [
        ScoredTrajectory(
            Trajectory(
                sample_id=SampleId("benchmark", index),
                prompt_ids=rng.integers(1, VOCABULARY, PROMPT, dtype=np.int32),
                completion_ids=rng.integers(1, VOCABULARY, COMPLETION, dtype=np.int32),
                source=Source.STUDENT,
                finish_reason=FinishReason.LENGTH,
                behaviour_log_probs=np.zeros(COMPLETION, np.float32),
                versions=VersionRange(0, 0),
            ),
            (TeacherScore("teacher", targets),),
        )
        for index in range(SEQUENCES)
    ]
    return TrainBatch(step, tuple(scored), SEQUENCES, SEQUENCES * COMPLETION)


def held(student: StudentModel) -> int:
    """Bytes of parameters in this process."""
    return sum(local(parameter).nbytes for parameter in student.model.parameters())


def local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


if __name__ == "__main__":
    main()
