"""One Gaussian for a mixture: against what is known in closed form, and against quadrature of its own."""

import math
from itertools import pairwise

import numpy as np
import pytest

from gkd_dist.experiments.catalogue import load_experiment
from gkd_dist.experiments.gaussian_fit import curves, fit, moments
from gkd_dist.experiments.spec import GaussianFit

MIXTURE = GaussianFit(weights=(3.0, 2.0), means=(-1.6, 1.6), stds=(0.7, 0.5), betas=(0.1, 0.5, 0.9))
X = np.linspace(-25, 25, 20001)


def density(mean: float, std: float) -> np.ndarray:
    return np.exp(-0.5 * ((X - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def mixture() -> np.ndarray:
    total = sum(MIXTURE.weights)
    parts = zip(MIXTURE.weights, MIXTURE.means, MIXTURE.stds, strict=True)
    return sum((weight / total * density(mean, std) for weight, mean, std in parts), np.zeros_like(X))


def kl(p: np.ndarray, q: np.ndarray) -> float:
    inside = p > 0
    return float(np.sum(p[inside] * np.log(p[inside] / np.maximum(q[inside], 1e-300))) * (X[1] - X[0]))


def divergence(name: str, q: np.ndarray) -> float:
    p = mixture()
    if name == "forward_kl":
        return kl(p, q)
    if name == "reverse_kl":
        return kl(q, p)
    beta = float(name.removeprefix("jsd(").removesuffix(")"))
    middle = beta * p + (1 - beta) * q
    return beta * kl(p, middle) + (1 - beta) * kl(q, middle)


FITTED = {each.divergence: each for each in fit(MIXTURE)}


def test_forward_kl_matches_the_moments() -> None:
    """The minimum over Gaussians of KL(P||Q) has the mean and variance of P."""
    best = FITTED["forward_kl"]
    assert (best.mean, best.std) == pytest.approx(moments(MIXTURE), abs=1e-5)
    assert moments(MIXTURE) == pytest.approx(
        (-0.32, math.sqrt(0.6 * 0.49 + 0.4 * 0.25 + 0.6 * 1.28**2 + 0.4 * 1.92**2))
    )


@pytest.mark.parametrize("name", FITTED)
def test_the_divergence_that_is_left_agrees_with_quadrature(name: str) -> None:
    best = FITTED[name]
    assert divergence(name, density(best.mean, best.std)) == pytest.approx(best.nats, abs=1e-6)


@pytest.mark.parametrize("name", FITTED)
def test_no_gaussian_of_a_coarse_grid_is_nearer(name: str) -> None:
    grid = [(mean, std) for mean in np.linspace(-3, 3, 25) for std in np.linspace(0.3, 3, 19)]
    assert min(divergence(name, density(*each)) for each in grid) >= FITTED[name].nats - 1e-9


def test_reverse_kl_seeks_the_heavier_mode_and_forward_kl_covers_both() -> None:
    covering, seeking = FITTED["forward_kl"], FITTED["reverse_kl"]
    assert seeking.mean == pytest.approx(-1.6, abs=0.1)
    assert seeking.masses[1] < 0.001 < 0.1 < covering.masses[1]
    between = [FITTED[name].std for name in ("forward_kl", "jsd(0.1)", "jsd(0.5)", "jsd(0.9)", "reverse_kl")]
    assert all(wider > narrower for wider, narrower in pairwise(between))


def test_curves_are_densities() -> None:
    mixture_curve, *others = curves(MIXTURE, list(FITTED.values()))
    assert [curve.name for curve in others] == list(FITTED)
    step = mixture_curve.x[1] - mixture_curve.x[0]
    assert sum(mixture_curve.density) * step == pytest.approx(1, abs=1e-3)


def test_figure_2_is_such_a_fit() -> None:
    experiment, _ = load_experiment("figure2")
    assert experiment.fit is not None
    assert len(experiment.fit.means) == 2
