"""Rows whose answers are known, as measurements."""

from collections.abc import Mapping

import numpy as np

from gkd_dist.experiments.measurements import NUM_RESAMPLES, Measurement

NUM_ROWS = 400


def measured(
    rows: np.ndarray, labels: Mapping[str, str], *, stage: str = "distil", metric: str = "score"
) -> Measurement:
    """A mean over rows, resampled as `resampling` does: the same rows for whoever has as many."""
    drawn = np.random.default_rng(5).integers(0, len(rows), (NUM_RESAMPLES, len(rows)))
    return Measurement(
        run="_".join([stage, *labels.values()]),
        stage=stage,
        labels=labels,
        evaluation="greedy",
        metric=metric,
        value=float(rows.mean()),
        resampled=rows[drawn].mean(axis=1),
        num_rows=len(rows),
    )


def scores(shift: float, seed: int) -> np.ndarray:
    """Rows differ much from each other (spread 1), runs little (0.05): only paired differences are sharp."""
    difficulty = np.random.default_rng(0).normal(0, 1, NUM_ROWS)
    return difficulty + shift + np.random.default_rng(100 + seed).normal(0, 0.05, NUM_ROWS)
