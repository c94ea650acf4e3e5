"""Run directories as a run leaves them, written without one: what reports and other readers are tested on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gkd_dist.config.load import dump_run_config, load_run_config
from gkd_dist.replay.ledger import Ledger, StepEntry, TrainedSequence
from gkd_dist.runs.attempts import Attempt
from gkd_dist.runs.events import EventLog
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.types import SampleId, Source, VersionRange

SETTINGS = ("student.model=s", "teacher.model=t", "cluster.mode=ray", "sampler.max_replicas=4")
HELD_OUT = {
    "before": {"on_policy/objective_nats": 0.9, "on_policy/forward_kl_nats": 1.25, "on_policy/reverse_kl_nats": None},
    "after": {"on_policy/objective_nats": 0.4, "on_policy/forward_kl_nats": 0.75, "on_policy/reverse_kl_nats": 0.5},
}


def make_run(output: Path, *settings: str, name: str = "tiny") -> RunDirectory:
    """One that has a configuration and nothing else."""
    directory = RunDirectory.create(output, name)
    directory.write_config(dump_run_config(load_run_config("tiny", [*SETTINGS, *settings])))
    return directory


def record_of(step: int, **fields: Any) -> dict[str, Any]:
    """A line of metrics.jsonl; tokens per second are 10, 20 and 40 times (step + 1), in steps of 2 s."""
    seconds = 2.0
    rates = {"sampled": 10.0 * (step + 1), "scored": 20.0 * (step + 1), "trained": 40.0 * (step + 1)}
    return {
        "step": step,
        "max_steps": 4,
        "attempt": 1,
        "policy_version": step + 1,
        "loss": 2.0 / (step + 1),
        "grad_norm": 1.5,
        "step_s": seconds,
        "sample_s": 0.5,
        "sample_transport_s": 0.125,
        "sampler_busy_s": 0.75,
        "load_s": 0.25,
        "learn_s": 1.0,
        "learn_head_s": 0.25,
        "learn_forward_s": 0.75,
        "controller_s": 0.01,
        "between_s": 0.25,
        "student_sequences": 4,
        "fixed_sequences": 4,
        "skipped": 0,
        "queue_depth": step,
        **{f"{moved}_tokens": rate * seconds for moved, rate in rates.items()},
        **{f"{moved}_tokens_per_s": rate for moved, rate in rates.items()},
        **fields,
    }


def write_records(directory: RunDirectory, records: Sequence[dict[str, Any]]) -> None:
    directory.metrics.write_text("".join(json.dumps(each) + "\n" for each in records))


def write_ledger(directory: RunDirectory, staleness: Sequence[Sequence[int]]) -> None:
    """One step per entry, with a student sequence of each staleness and one fixed pair."""
    ledger = Ledger(directory.ledger)
    for step, values in enumerate(staleness):
        sequences = [
            TrainedSequence(
                SampleId(directory.name, 10 * step + index), 0, Source.STUDENT, VersionRange(step, step), (), 1, value
            )
            for index, value in enumerate(values)
        ]
        fixed = TrainedSequence(SampleId(directory.name, 10 * step + 9), 0, Source.GROUND_TRUTH, None, (), 1, 0)
        ledger.append(StepEntry(step, 0, 0.5, len(values), (*sequences, fixed)))
    ledger.close()


def write_whole_run(output: Path, *settings: str, samples: Sequence[dict[str, str]] = (), factor: float = 1.0) -> Path:
    """Four steps in one attempt, a death, a change of scale, a checkpoint, samples and a summary; `factor` scales the
    losses."""
    directory = make_run(output, "learner.max_steps=4", *settings)
    with Attempt(directory) as attempt:
        log = EventLog(directory.events, attempt.number)
        log.write("stage", former="starting", state="training")
        for former, state, reason in (
            ("dead", "restarting", "new"),
            ("restarting", "stale", "started"),
            ("stale", "healthy", "caught_up"),
            ("healthy", "dead", "oom"),
            ("dead", "restarting", "oom"),
        ):
            log.write("replica", role="sampler", slot=0, former=former, state=state, reason=reason)
        log.write("scale", role="sampler", former="1", state="3", reason="request")
        log.write("checkpoint", state="written", step=4)
    write_records(directory, [record_of(step, loss=factor * 2.0 / (step + 1)) for step in range(4)])
    write_ledger(directory, [[0, 0], [0, 1], [1, 1], [2, 1]])
    directory.write_samples(samples)
    directory.write_versions()
    directory.write_summary({"steps": 4, **HELD_OUT})
    return directory.path
