"""Samples beside their prompts, where some were refused."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from gkd_dist.pipeline.evaluation import Evaluation
from gkd_dist.reporting import sample_rows
from tests import tiny

DRAFTS = tiny.trajectories([(3, 4), (2, 6), (4, 5)])


def job() -> Any:
    held_out = [SimpleNamespace(text=f"prompt {index}", completion_ids=np.asarray([index])) for index in range(3)]
    return SimpleNamespace(
        renderer=SimpleNamespace(decode=lambda ids: " ".join(map(str, ids))),
        blueprint=SimpleNamespace(teachers={"teacher": None}),
        rendered=SimpleNamespace(held_out=held_out),
    )


def evaluation(*indices: int, shown: tuple[int, ...] = ()) -> Evaluation:
    return Evaluation(
        on_policy=None,
        reference=None,
        samples=tuple(DRAFTS[index] for index in indices),
        shown=tuple(DRAFTS[index] for index in shown),
    )


def test_every_sample_stands_beside_its_own_prompt() -> None:
    texts = [" ".join(map(str, each.completion_ids)) for each in DRAFTS]
    before, after = evaluation(0, 2, shown=(1,)), evaluation(1, 2, shown=(0, 1))
    rows = sample_rows(job(), before, after, {"teacher": {1: [5, 6]}})
    assert [row["prompt"] for row in rows] == ["prompt 0", "prompt 1", "prompt 2"]
    assert [row["before"] for row in rows] == [texts[0], "", texts[2]]
    assert [row["after"] for row in rows] == ["", texts[1], texts[2]]
    assert [row.get("before_greedy") for row in rows] == ["", texts[1], None]
    assert [row.get("after_greedy") for row in rows] == [texts[0], texts[1], None]
    assert [row.get("teacher_greedy") for row in rows] == [None, "5 6", None]
