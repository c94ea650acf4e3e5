"""Measure what staleness costs: held-out divergence of the student after training, against replay.max_staleness.

    .venv/bin/python benchmarks/staleness.py [--objective NAME] [--seeds 5] [--limit-s 240]

Real runs of the ring in one process (cluster.mode=local, hf engines) on a pair of tiny Llamas with random weights: the
student is the teacher with noise on every weight. Every point is a fresh run per seed; the seed draws the models, the
prompts, their order and the samples. `sync` is Algorithm 1.

In asynchronous runs the learner is held back, before each step, until samplers and teachers have done all that
max_staleness lets them begin: the learner is then the slowest part, and the bound is used up to the end whatever the
speed of the machine. What each step was trained on is counted from the replay (`realised`).

The student is judged after the last step, on what it writes itself to 64 held-out prompts at temperature 1, by the
evaluation of `gkd run` over exact targets. Writes benchmarks/staleness.json after every run; runs that are in there
already are not repeated, so it may be stopped and started again. The seeds are the same for all points, so differences
are taken within a seed.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from gkd_dist.config.load import load_run_config
from gkd_dist.config.run import RunConfig
from gkd_dist.divergences import sampled
from gkd_dist.interfaces import Learner
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.controller import make_ring, run_ring
from gkd_dist.pipeline.evaluation import evaluate
from gkd_dist.pipeline.ring import Ring
from gkd_dist.preparation import prepare
from gkd_dist.replay.ledger import Ledger
from gkd_dist.testing.fakes import FakeMetrics
from gkd_dist.types import StepReport, TrainBatch

RESULT = Path(__file__).with_suffix(".json")
POINTS: tuple[int | None, ...] = (None, 0, 1, 2, 4, 8)
"""None is mode=sync."""
UNWEIGHTED = "reverse_kl, sampled, unweighted"
OBJECTIVES = {
    "forward_kl": ["objective.divergence=forward_kl", "teacher.transport=hidden"],
    "reverse_kl": ["objective.divergence=reverse_kl", "teacher.transport=hidden"],
    "reverse_kl, sampled": ["objective.divergence=reverse_kl", "teacher.transport=sampled"],
}
OBJECTIVES[UNWEIGHTED] = OBJECTIVES["reverse_kl, sampled"]
"""Two exact losses; the policy gradient of the second from the teacher's log-probs of the sampled tokens alone, as it
is shipped; and the same without the importance weights of older samples."""
VOCABULARY, STOP = 64, 1
WORDS = ["<pad>", "</s>", "<unk>", *(f"w{number}" for number in range(3, VOCABULARY))]
PROMPT_WORDS, NUM_HELD_OUT, NUM_TRAIN = 4, 64, 512
NOISE = 0.5
"""Standard deviation of the student's noise, over that of each tensor of the teacher."""
SETTINGS = {
    "learner.max_steps": 120,
    "learner.batch_size": 32,
    "sampling.num_generations": 8,
    "sampling.max_new_tokens": 16,
    "learner.learning_rate": 0.003,
    "learner.lr_scheduler_type": "constant",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--objective", choices=OBJECTIVES, action="append", help="default: all of them")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="begin no run after so many seconds")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    disable_progress_bar()
    torch.set_num_threads(1)
    ends_at = time.monotonic() + arguments.limit_s
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if result.get("settings") != SETTINGS:
        result = {"settings": SETTINGS, "noise": NOISE, "runs": []}
    result["machine"] = {"cores": os.cpu_count(), "platform": platform.platform(), "torch": torch.__version__}
    for seed in range(arguments.seeds):
        for objective in arguments.objective or OBJECTIVES:
            for point in points_of(objective):
                known = {(run["objective"], run["max_staleness"], run["seed"]) for run in result["runs"]}
                if (objective, point, seed) in known or time.monotonic() > ends_at:
                    continue
                before = next((run["before"] for run in result["runs"] if run["seed"] == seed), None)
                result["runs"].append(measure(objective, point, seed, before))
                result["curves"] = curves(result["runs"])
                RESULT.write_text(json.dumps(result, indent=2) + "\n")
                print(json.dumps(result["runs"][-1]), flush=True)
    print(table(result["curves"]), f"\nwritten to {RESULT}")


def points_of(objective: str) -> tuple[int | None, ...]:
    """Without older samples nothing is weighed."""
    return POINTS[2:] if objective == UNWEIGHTED else POINTS


def measure(
    objective: str, max_staleness: int | None, seed: int, before: dict[str, float] | None = None
) -> dict[str, Any]:
    """One run from the untrained student to its evaluation.

    Args:
        before: evaluation of the untrained student of this seed, where it is known.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pair(folder, seed)
        pace = ["mode=sync"] if max_staleness is None else ["mode=async", f"replay.max_staleness={max_staleness}"]
        config = configuration(folder, folder / "student", seed, [*OBJECTIVES[objective], *pace])
        with unweighted() if objective == UNWEIGHTED else nullcontext():
            counts, loss = asyncio.run(train(config, folder))
        # Another objective would evaluate itself; here all are judged alike.
        exact = [*OBJECTIVES["reverse_kl"], "mode=sync"]
        before = before or asyncio.run(judge(configuration(folder, folder / "student", seed, exact)))
        after = asyncio.run(judge(configuration(folder, folder / "final", seed, exact)))
    total = sum(counts.values())
    return {
        "objective": objective,
        "max_staleness": max_staleness,
        "seed": seed,
        "before": before,
        "after": after,
        "last_losses_mean": round(loss, 5),
        "realised": {str(age): round(counts[age] / total, 4) for age in sorted(counts)},
        "realised_mean": round(sum(age * number for age, number in counts.items()) / total, 3),
        "seconds": round(time.monotonic() - began, 1),
    }


async def train(config: RunConfig, folder: Path) -> tuple[Counter[int], float]:
    """Save the trained student in `folder / "final"`; returns sequences by staleness, and the mean of late losses."""
    job = prepare(config, lambda _: None)
    losses = Losses()
    async with job.blueprint.fleet() as fleet:
        plan = job.plan("staleness", folder)
        accounts = StepAccounts(max_steps=plan.max_steps, metrics=FakeMetrics(), sinks=[losses])
        ring = make_ring(plan, fleet, accounts, ledger=Ledger(folder / "ledger.jsonl"))
        learner = fleet.learner
        if config.mode == "async":
            fleet.learner = HeldBack(learner, ring)
        await run_ring(ring)
        await learner.save(folder / "final")
    return ring.replay.staleness_counts, statistics.mean(losses.values[-10:])


async def judge(config: RunConfig) -> dict[str, float]:
    """What the student of `config` is worth, nats per token on its own answers."""
    job = prepare(config, lambda _: None)
    async with job.blueprint.fleet() as fleet:
        report = (await evaluate(fleet, job.held_out("staleness"), 0)).on_policy
    return {"forward_kl": round(report.forward_kl, 5), "reverse_kl": round(report.reverse_kl, 5)}


def unweighted() -> AbstractContextManager[object]:
    """What the learner would do if it took samples of older versions for its own."""
    return mock.patch.object(sampled, "importance_weights", lambda log_q, *_: torch.ones_like(log_q))


class HeldBack:
    """A learner that begins a step when all that may wait for later ones waits in the replay."""

    def __init__(self, learner: Learner, ring: Ring) -> None:
        self._learner = learner
        self._ring = ring

    async def train(self, batch: TrainBatch) -> StepReport:
        plan = self._ring.plan
        later = min(plan.max_staleness, plan.max_steps - 1 - batch.step) * plan.batch_size
        while self._ring.replay.depth < later:
            await asyncio.sleep(0.002)
        return await self._learner.train(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._learner, name)


class Losses:
    """Implements `interfaces.RecordSink`."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def write(self, record: dict[str, float | int | str]) -> None:
        self.values.append(float(record["loss"]))

    def close(self) -> None:
        """Nothing is open."""


def configuration(folder: Path, student: Path, seed: int, more: list[str]) -> RunConfig:
    return load_run_config(
        "tiny",
        [
            f"student.model={student}",
            f"teacher.model={folder / 'teacher'}",
            f"data.path={folder / 'prompts.jsonl'}",
            f"output_dir={folder / 'runs'}",
            f"seed={seed}",
            f"data.num_train={NUM_TRAIN}",
            f"data.num_held_out={NUM_HELD_OUT}",
            "objective.student_fraction=1",
            "evaluation.num_samples_shown=0",
            "sampler.max_model_len=64",
            "teacher.max_model_len=64",
            *(f"{key}={value}" for key, value in SETTINGS.items()),
            *more,
        ],
    )


def make_pair(folder: Path, seed: int) -> None:
    """A teacher, the student that it is to teach, and prompts of random words."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=STOP,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    save(model, folder / "teacher")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter += NOISE * parameter.std() * torch.randn_like(parameter)
    save(model, folder / "student")
    rng = np.random.default_rng(seed)
    rows = [
        {"prompt": " ".join(f"w{number}" for number in rng.integers(3, VOCABULARY, PROMPT_WORDS))}
        for _ in range(NUM_TRAIN + NUM_HELD_OUT + 64)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def save(model: LlamaForCausalLM, folder: Path) -> None:
    model.save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=128
    ).save_pretrained(folder)


def curves(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By objective and point: mean and standard deviation over seeds, and the ratio to sync within a seed."""
    found: dict[str, dict[str, Any]] = {}
    for objective in OBJECTIVES:
        reference = "reverse_kl, sampled" if objective == UNWEIGHTED else objective
        sync = {run["seed"]: run for run in runs if run["objective"] == reference and run["max_staleness"] is None}
        for point in points_of(objective):
            own = [run for run in runs if run["objective"] == objective and run["max_staleness"] == point]
            if own:
                found.setdefault(objective, {})["sync" if point is None else str(point)] = _point(own, sync)
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """Rows of Markdown: divergences after training (mean, standard deviation over seeds), and their ratio to sync."""
    lines = []
    for objective, points in found.items():
        for name, point in points.items():
            after, over = point["reverse_kl"]["after"], point["reverse_kl"]["over_sync"]
            lines.append(
                f"| {objective} | {name} | {point['seeds']} | {point['realised_mean']:.2f} "
                f"| {point['forward_kl']['after']['mean']:.3f} | {after['mean']:.3f} +- {after['std']:.3f} "
                f"| {over['mean']:.3f} ({over['min']:.3f} to {over['max']:.3f}) |"
            )
    return "\n".join(lines)


def _point(found: list[dict[str, Any]], sync: dict[int, dict[str, Any]]) -> dict[str, Any]:
    point: dict[str, Any] = {
        "seeds": len(found),
        "realised_mean": round(statistics.mean(run["realised_mean"] for run in found), 3),
    }
    for kind in ("forward_kl", "reverse_kl"):
        ratios = [run["after"][kind] / sync[run["seed"]]["after"][kind] for run in found]
        point[kind] = {
            "before": _spread([run["before"][kind] for run in found]),
            "after": _spread([run["after"][kind] for run in found]),
            "over_sync": _spread(ratios),
        }
    return point


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "mean": round(statistics.mean(values), 4),
        "std": round(statistics.stdev(values), 4) if len(values) > 1 else 0.0,
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


if __name__ == "__main__":
    main()
