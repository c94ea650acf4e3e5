r"""Do gkd_dist and TRL compute the same loss, and the same gradient, on the same batch? Seconds, on tiny models.

    .venv/bin/python benchmarks/peers/same_loss.py [--student FOLDER --teacher FOLDER]

Completions of unequal length are given to both: to gkd_dist's teacher, collation and learner, and to TRL's padding and
losses (GKDTrainer.compute_loss; the chunked loss of DistillationTrainer, whose reduction is the same). Compared in
float32, with `objective.reduction=token_mean`, which is what TRL computes; beside it what GKDTrainer computes in
training, where it divides by the number of tokens of the *reference* completions, and the mean of sequence means, which
is gkd_dist's default. Writes benchmarks/peers/same_loss.json; ends with 1 where loss or gradient norm differ by more
than 1e-4 of themselves.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sides import Peer
from tiny_pair import END, save_pair

from gkd_dist.divergences import make_divergence
from gkd_dist.learners.layouts import PackedLayout
from gkd_dist.learners.load import load_student
from gkd_dist.learners.objective import Distillation
from gkd_dist.learners.step import LossSettings, accumulate_gradient
from gkd_dist.learners.targets import TargetRules, TeacherView
from gkd_dist.teachers.hf_teacher import HfTeacher
from gkd_dist.teachers.readout import load_readout
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

HERE = Path(__file__).parent
RESULT = Path(__file__).with_suffix(".json")
TOLERANCE = 1e-4
"""Relative, of loss and gradient norm."""
VOCABULARY = 600
SHAPES = [(9, 31), (17, 12), (23, 40), (5, 1), (12, 25), (20, 40)]
"""Tokens of prompt and completion; every other completion ends with the end token, the rest are cut."""
DIVERGENCES = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.25}
"""As gkd_dist names them, and TRL's beta, which means the same inside (0, 1)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student")
    parser.add_argument("--teacher")
    parser.add_argument("--trl-python", default=str(HERE / ".venv" / "bin" / "python"))
    parser.add_argument("--trl-path", default="")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    peer = Peer(arguments.trl_python, arguments.trl_path)
    peer.check()
    with tempfile.TemporaryDirectory() as folder:
        pair = save_pair(Path(folder), VOCABULARY)
        student, teacher = Path(arguments.student or pair.student), Path(arguments.teacher or pair.teacher)
        sequences = batch()
        theirs = of_trl(student, teacher, sequences, peer, Path(folder))
        ours = of_gkd_dist(student, teacher, sequences)
    result = {"sequences": SHAPES, "tolerance": TOLERANCE, "divergences": {}}
    for name in DIVERGENCES:
        mean, peers = ours[name]["token_mean"], theirs[name]
        result["divergences"][name] = {
            "gkd_dist": ours[name],
            "trl": peers,
            "relative_difference": {
                peer: {kind: relative(peers[peer][kind], mean[kind]) for kind in ("loss", "gradient_norm")}
                for peer in ("gkd", "distillation")
            },
        }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["divergences"], indent=1))
    worst = max(
        value
        for each in result["divergences"].values()
        for differences in each["relative_difference"].values()
        for value in differences.values()
    )
    print(f"largest relative difference {worst:.2g}, allowed {TOLERANCE:g}; written to {arguments.output}")
    return int(worst > TOLERANCE)


def relative(value: float, other: float) -> float:
    return abs(value - other) / abs(other)


def batch() -> list[dict[str, Any]]:
    """Random ids; `reference_tokens` is how long the data set's own completion would be."""
    rng = np.random.default_rng(0)
    made = []
    for index, (prompt, completion) in enumerate(SHAPES):
        ids = rng.integers(2, VOCABULARY, completion).tolist()
        if index % 2 == 0:
            ids[-1] = END
        made.append(
            {
                "prompt_ids": rng.integers(2, VOCABULARY, prompt).tolist(),
                "completion_ids": ids,
                "reference_tokens": int(rng.integers(10, 60)),
            }
        )
    return made


def of_trl(
    student: Path, teacher: Path, sequences: list[dict[str, Any]], peer: Peer, folder: Path
) -> dict[str, dict[str, Any]]:
    """In TRL's environment: by divergence and trainer, `loss` and `gradient_norm`."""
    asked = {"student": str(student), "teacher": str(teacher), "sequences": sequences, "betas": DIVERGENCES}
    (folder / "asked.json").write_text(json.dumps(asked))
    script = str(HERE / "trl_losses.py")
    command = [peer.python, script, str(folder / "asked.json"), str(folder / "answer.json")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": peer.path})
    return json.loads((folder / "answer.json").read_text())


def of_gkd_dist(student: Path, teacher: Path, sequences: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Through teacher, packing, chunked loss and backward: by divergence and reduction."""
    model = load_student(student, gradient_checkpointing=False)
    num_ids = int(model.model.get_output_embeddings().weight.shape[0])
    made = train_batch(teacher, sequences)
    view = TeacherView(load_readout(teacher, dtype="float32", num_ids=num_ids).frozen(torch.float32), 1.0)
    found: dict[str, dict[str, Any]] = {}
    for name, beta in DIVERGENCES.items():
        found[name] = {}
        divergence = make_divergence(name, beta=beta if 0 < beta < 1 else 0.5, normalize_jsd=False, skew=0.1)
        for reduction in ("token_mean", "sequence_mean"):
            settings = LossSettings(
                objective=Distillation(divergence, {"teacher": view}, TargetRules(num_ids)),
                reduction=reduction,
                bf16=False,
                max_micro_batch_tokens=128,  # several forwards: the split must not matter
                pad_token_id=0,
                num_ids=num_ids,
                layout=PackedLayout(),
            )
            model.model.zero_grad(set_to_none=True)
            loss = accumulate_gradient(model, made, settings)
            norm = torch.nn.utils.get_total_norm(
                [parameter.grad for parameter in model.model.parameters() if parameter.grad is not None]
            )
            found[name][reduction] = {"loss": loss, "gradient_norm": norm.item()}
    return found


def train_batch(teacher: Path, sequences: list[dict[str, Any]]) -> TrainBatch:
    """Scored by the teacher of the `hidden` transport."""
    trajectories = [
        Trajectory(
            sample_id=SampleId("same-loss", index),
            prompt_ids=np.asarray(each["prompt_ids"], np.int32),
            completion_ids=np.asarray(each["completion_ids"], np.int32),
            source=Source.STUDENT,
            finish_reason=FinishReason.STOP if each["completion_ids"][-1] == END else FinishReason.LENGTH,
            behaviour_log_probs=np.zeros(len(each["completion_ids"]), np.float32),
            versions=VersionRange(0, 0),
        )
        for index, each in enumerate(sequences)
    ]

    async def score() -> list[Any]:
        scorer = HfTeacher(teacher, dtype="float32", transport="hidden", pad_token_id=0)
        try:
            return await scorer.score(trajectories)
        finally:
            await scorer.close()

    targets = asyncio.run(score())
    scored = tuple(
        ScoredTrajectory(trajectory, (TeacherScore("teacher", each),))
        for trajectory, each in zip(trajectories, targets, strict=True)
    )
    return TrainBatch(0, scored, len(scored), sum(each.num_completion_tokens for each in trajectories))


if __name__ == "__main__":
    sys.exit(main())
