"""One Gaussian in the place of a mixture of them, under each divergence: who covers modes and who seeks one.

Densities are taken on a fine grid and normalised there, so that they are distributions over a vocabulary of grid
points, and the divergences are those that students are trained with (`gkd_dist.divergences`).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gkd_dist.divergences import forward_kl, jsd, reverse_kl
from gkd_dist.experiments.spec import GaussianFit

NUM_POINTS = 4001
_MARGIN = 8.0
"""Standard deviations of the mixture that the grid reaches to both sides of its mean: the Gaussian that covers it all
must not be cut off."""
_SHOWN = 3.0
"""The same for curves."""
_MAX_ITERATIONS = 500


@dataclass(frozen=True)
class Fitted:
    """The best Gaussian under one divergence."""

    divergence: str
    """`forward_kl`, `reverse_kl` or `jsd(BETA)`."""
    mean: float
    std: float
    nats: float
    """The divergence that is left."""
    masses: tuple[float, ...]
    """Of the Gaussian, within one standard deviation of each component of the mixture."""


@dataclass(frozen=True)
class Curve:
    """A density at the points of the grid."""

    name: str
    x: tuple[float, ...]
    density: tuple[float, ...]


def fit(spec: GaussianFit) -> list[Fitted]:
    """For each divergence the Gaussian that is nearest to the mixture, of several local minima the lowest.

    Deterministic: float64, L-BFGS from one start for each component and one for the mixture as a whole.
    """
    x = _grid(spec)
    teacher = torch.log_softmax(_mixture_log_density(spec, x), dim=-1)
    found = []
    for name, divergence in _divergences(spec):
        best = min((_descend(divergence, teacher, x, *start) for start in _starts(spec)), key=lambda each: each[2])
        mean, std, nats = best
        masses = tuple(
            _mass(mean, std, center - width, center + width)
            for center, width in zip(spec.means, spec.stds, strict=True)
        )
        found.append(Fitted(name, mean, std, nats, masses))
    return found


def curves(spec: GaussianFit, fitted: list[Fitted], num_points: int = 400) -> list[Curve]:
    """The mixture first, then each Gaussian, as densities."""
    x = _places(spec, _SHOWN, num_points)
    places = tuple(x.tolist())
    mixture = Curve("mixture", places, tuple(_mixture_log_density(spec, x).exp().tolist()))
    return [
        mixture,
        *(
            Curve(each.divergence, places, tuple(_log_density(x, each.mean, each.std).exp().tolist()))
            for each in fitted
        ),
    ]


def _divergences(spec: GaussianFit) -> Iterator[tuple[str, Callable[[Tensor, Tensor], Tensor]]]:
    yield "forward_kl", forward_kl
    for beta in spec.betas:
        yield f"jsd({beta:g})", partial(jsd, beta=beta)
    yield "reverse_kl", reverse_kl


def _starts(spec: GaussianFit) -> list[tuple[float, float]]:
    return [*zip(spec.means, spec.stds, strict=True), moments(spec)]


def moments(spec: GaussianFit) -> tuple[float, float]:
    """(mean, standard deviation) of the mixture."""
    total = sum(spec.weights)
    parts = list(zip(spec.weights, spec.means, spec.stds, strict=True))
    mean = sum(weight * center for weight, center, _ in parts) / total
    variance = sum(weight * (std**2 + (center - mean) ** 2) for weight, center, std in parts) / total
    return mean, math.sqrt(variance)


def _descend(
    divergence: Callable[[Tensor, Tensor], Tensor], teacher: Tensor, x: Tensor, mean: float, std: float
) -> tuple[float, float, float]:
    """(mean, std, nats) of the local minimum below a start."""
    parameters = torch.tensor([mean, math.log(std)], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=_MAX_ITERATIONS,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def nats() -> Tensor:
        student = torch.log_softmax(_log_density(x, parameters[0], parameters[1].exp()), dim=-1)
        return divergence(teacher, student)

    def closure() -> float:
        optimizer.zero_grad()
        loss = nats()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    with torch.no_grad():
        return float(parameters[0]), float(parameters[1].exp()), float(nats())


def _grid(spec: GaussianFit) -> Tensor:
    return _places(spec, _MARGIN, NUM_POINTS)


def _places(spec: GaussianFit, reach: float, num_points: int) -> Tensor:
    mean, std = moments(spec)
    return torch.linspace(mean - reach * std, mean + reach * std, num_points, dtype=torch.float64)


def _mixture_log_density(spec: GaussianFit, x: Tensor) -> Tensor:
    total = sum(spec.weights)
    parts = [
        math.log(weight / total) + _log_density(x, mean, std)
        for weight, mean, std in zip(spec.weights, spec.means, spec.stds, strict=True)
    ]
    return torch.logsumexp(torch.stack(parts), dim=0)


def _log_density(x: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    log_std = std.log() if isinstance(std, Tensor) else math.log(std)
    return -0.5 * ((x - mean) / std) ** 2 - log_std - 0.5 * math.log(2 * math.pi)


def _mass(mean: float, std: float, low: float, high: float) -> float:
    def below(place: float) -> float:
        return 0.5 * (1 + math.erf((place - mean) / (std * math.sqrt(2))))

    return below(high) - below(low)
