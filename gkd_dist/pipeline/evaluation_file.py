"""An evaluation as a file, so that a run that goes on later can still compare with its beginning."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gkd_dist.pipeline.evaluation import Evaluation
from gkd_dist.types import DivergenceReport, FinishReason, SampleId, Source, Trajectory, VersionRange


def write_evaluation(evaluation: Evaluation, file: Path) -> None:
    """JSON; missing folders above it are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "on_policy": asdict(evaluation.on_policy) if evaluation.on_policy else None,
        "reference": asdict(evaluation.reference) if evaluation.reference else None,
        "samples": [_plain(each) for each in evaluation.samples],
        "shown": [_plain(each) for each in evaluation.shown],
        "reward_mean": evaluation.reward_mean,
        "num_unsampled": evaluation.num_unsampled,
        "num_unscored": evaluation.num_unscored,
    }
    draft = file.with_name(f".{file.name}.tmp")
    draft.write_text(json.dumps(content) + "\n")
    draft.rename(file)


def read_evaluation(file: Path) -> Evaluation | None:
    """What `write_evaluation` wrote; None where there is no such file, or not a whole one."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        return Evaluation(
            on_policy=DivergenceReport(**content["on_policy"]) if content["on_policy"] else None,
            reference=DivergenceReport(**content["reference"]) if content["reference"] else None,
            samples=tuple(map(_trajectory, content["samples"])),
            shown=tuple(map(_trajectory, content["shown"])),
            reward_mean=content["reward_mean"],
            num_unsampled=content.get("num_unsampled", 0),
            num_unscored=content.get("num_unscored", 0),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _plain(trajectory: Trajectory) -> dict[str, Any]:
    return {
        "sample_id": asdict(trajectory.sample_id),
        "prompt_ids": trajectory.prompt_ids.tolist(),
        "completion_ids": trajectory.completion_ids.tolist(),
        "finish_reason": trajectory.finish_reason.value,
        "behaviour_log_probs": np.asarray(trajectory.behaviour_log_probs).tolist(),
    }


def _trajectory(plain: dict[str, Any]) -> Trajectory:
    """Evaluations before training are of version 0."""
    return Trajectory(
        sample_id=SampleId(**plain["sample_id"]),
        prompt_ids=np.asarray(plain["prompt_ids"], np.int32),
        completion_ids=np.asarray(plain["completion_ids"], np.int32),
        source=Source.STUDENT,
        finish_reason=FinishReason(plain["finish_reason"]),
        behaviour_log_probs=np.asarray(plain["behaviour_log_probs"], np.float32),
        versions=VersionRange(0, 0),
    )
