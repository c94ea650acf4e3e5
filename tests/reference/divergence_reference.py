"""Divergences and loss of GKD, written naively from the paper (Agarwal et al., arXiv 2306.13649) in float64 numpy.

Everything is in probability space, for one pair of distributions at a time, with analytic derivatives with respect
to the student's logits. Nothing of the package under test is imported.

    P teacher, Q student, M = beta * P + (1 - beta) * Q
    forward_kl = sum P log(P / Q)      reverse_kl = sum Q log(Q / P)      tvd = 0.5 * sum |P - Q|
    jsd = beta * sum P log(P / M) + (1 - beta) * sum Q log(Q / M)                                       (eq. 1)

    skewed_forward_kl = sum P log(P / (skew P + (1 - skew) Q))                   (DistiLLM, arXiv 2402.03898, eq. 4)
    skewed_reverse_kl = sum Q log(Q / ((1 - skew) P + skew Q))                                      (section 3.1)

`beta` stands for the number a divergence has: beta of jsd, skew of the skewed ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def forward_kl(p: Array, q: Array) -> float:
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def reverse_kl(p: Array, q: Array) -> float:
    return forward_kl(q, p)


def jsd(p: Array, q: Array, beta: float) -> float:
    m = beta * p + (1 - beta) * q
    return beta * forward_kl(p, m) + (1 - beta) * forward_kl(q, m)


def tvd(p: Array, q: Array) -> float:
    return float(0.5 * np.abs(p - q).sum())


def value(kind: str, p: Array, q: Array, beta: float) -> float:
    match kind:
        case "forward_kl":
            return forward_kl(p, q)
        case "reverse_kl":
            return reverse_kl(p, q)
        case "jsd":
            return jsd(p, q, beta)
        case "tvd":
            return tvd(p, q)
        case "skewed_forward_kl":
            return forward_kl(p, beta * p + (1 - beta) * q)
        case "skewed_reverse_kl":
            return forward_kl(q, (1 - beta) * p + beta * q)
    raise AssertionError(kind)


def slope(kind: str, p: Array, q: Array, beta: float) -> Array:
    """d value / d q, each q on its own."""
    match kind:
        case "forward_kl":
            return -p / q
        case "reverse_kl":
            return np.log(q / p) + 1
        case "jsd":
            # dM/dq = 1 - beta: the parts through M sum to -(beta p + (1 - beta) q) (1 - beta) / m = -(1 - beta).
            m = beta * p + (1 - beta) * q
            return (1 - beta) * (np.log(q / m) + 1) - (1 - beta)
        case "tvd":
            return 0.5 * np.sign(q - p)
        case "skewed_forward_kl":
            return -(1 - beta) * p / (beta * p + (1 - beta) * q)
        case "skewed_reverse_kl":
            m = (1 - beta) * p + beta * q
            return np.log(q / m) + 1 - beta * q / m
    raise AssertionError(kind)


def through_softmax(q: Array, g: Array) -> Array:
    """d / d logits from g = d / d q: q * (g - sum q g), the softmax's Jacobian."""
    return q * (g - (q * g).sum())


def logit_gradient(kind: str, p: Array, q: Array, beta: float) -> Array:
    """d value / d student logits."""
    return through_softmax(q, slope(kind, p, q, beta))


def coarse(p: Array, ids: Array) -> Array:
    """[K + 1] probabilities of `ids` [K], and of all others together; [K] where there are no others."""
    others = np.delete(p, ids)
    return np.append(p[ids], others.sum()) if len(others) else p[ids]


def bucket_value(kind: str, p: Array, q: Array, ids: Array, beta: float) -> float:
    """The divergence of the distributions over `ids` and one bucket for the rest."""
    return value(kind, coarse(p, ids), coarse(q, ids), beta)


def bucket_gradient(kind: str, p: Array, q: Array, ids: Array, beta: float) -> Array:
    """d bucket_value / d student logits: an id outside the set moves the bucket."""
    of_bucket = slope(kind, coarse(p, ids), coarse(q, ids), beta)
    g = np.full(len(q), of_bucket[-1])
    g[ids] = of_bucket[: len(ids)]
    return through_softmax(q, g)


def measures_value(kind: str, p: Array, q: Array, beta: float) -> float:
    """The divergence of measures that need not sum to 1: each a log(a / b) gains - a + b; tvd gains nothing."""

    def kl(a: Array, b: Array) -> float:
        return float((a * np.log(a / b) - a + b).sum())

    match kind:
        case "forward_kl":
            return kl(p, q)
        case "reverse_kl":
            return kl(q, p)
        case "jsd":
            m = beta * p + (1 - beta) * q
            return beta * kl(p, m) + (1 - beta) * kl(q, m)
        case "tvd":
            return tvd(p, q)
        case "skewed_forward_kl":
            return kl(p, beta * p + (1 - beta) * q)
        case "skewed_reverse_kl":
            return kl(q, (1 - beta) * p + beta * q)
    raise AssertionError(kind)


def generalized_value(kind: str, p: Array, q: Array, ids: Array, beta: float) -> float:
    """The divergence of the two measures on `ids` alone."""
    return measures_value(kind, p[ids], q[ids], beta)


def generalized_gradient(kind: str, p: Array, q: Array, ids: Array, beta: float) -> Array:
    """d generalized_value / d student logits."""
    added = {"forward_kl": 1.0, "reverse_kl": -1.0, "skewed_forward_kl": 1 - beta, "skewed_reverse_kl": beta - 1}
    g = np.zeros(len(q))
    g[ids] = slope(kind, p[ids], q[ids], beta) + added.get(kind, 0.0)
    return through_softmax(q, g)


def central_differences(function: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    gradient = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


@dataclass(frozen=True)
class Head:
    """soft_cap * tanh(scale * (h W^T + b) / soft_cap), first num_ids ids."""

    weight: Array
    bias: Array | None = None
    scale: float = 1.0
    soft_cap: float | None = None
    num_ids: int | None = None

    def logits(self, hidden: Array) -> Array:
        raw = hidden @ self.weight.T
        if self.bias is not None:
            raw = raw + self.bias
        raw = self.scale * raw
        if self.soft_cap is not None:
            raw = self.soft_cap * np.tanh(raw / self.soft_cap)
        return raw[..., : self.num_ids]

    def backward(self, hidden: Array, logits: Array, grad_logits: Array) -> tuple[Array, Array, Array]:
        """d hidden [N, H], d weight [V, H], d bias [V] from d logits [N, num_ids]."""
        inner = grad_logits * self.scale
        if self.soft_cap is not None:
            inner = inner * (1 - (logits / self.soft_cap) ** 2)
        padded = np.zeros((len(hidden), len(self.weight)))
        padded[:, : inner.shape[1]] = inner
        return padded @ self.weight, padded.T @ hidden, padded.sum(0)


def sequence_mean_loss(per_token: Array, lengths: list[int]) -> float:
    """Eq. 2: the mean over a sequence's tokens, then over sequences."""
    means, start = [], 0
    for length in lengths:
        means.append(per_token[start : start + length].mean())
        start += length
    return float(np.mean(means))


def weights_of_sequence_mean(lengths: list[int]) -> Array:
    return np.array([1 / (length * len(lengths)) for length in lengths for _ in range(length)])
