"""Mixtures of several teachers, written from their definition in float64 numpy, token by token.

With weights w that sum to 1 and P_i = softmax(l_i / T_i):

    arithmetic  P = sum_i w_i P_i
    geometric   P = prod_i P_i ** w_i / sum over the vocabulary of the same
"""

from collections.abc import Sequence

import numpy as np
from divergence_reference import Array, softmax


def mixture(kind: str, logits: Sequence[Array], weights: Sequence[float], temperatures: Sequence[float]) -> Array:
    """[N, V] probabilities of the mixture of teachers with logits [N, V] each."""
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    probs = [softmax(each, temperature) for each, temperature in zip(logits, temperatures, strict=True)]
    mixed = np.empty_like(probs[0])
    for token in range(len(mixed)):
        if kind == "arithmetic":
            mixed[token] = sum(share * each[token] for share, each in zip(shares, probs, strict=True))
        else:
            product = np.prod([each[token] ** share for share, each in zip(shares, probs, strict=True)], axis=0)
            mixed[token] = product / product.sum()
    return mixed
