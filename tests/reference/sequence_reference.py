"""KL of whole completions by enumeration, in float64 (MiniLLM: Gu et al., arXiv 2306.08543).

A language model is a table of logits [S, V], one row for each prefix of a completion that may go on. Completions end
with the id `STOP` or at `length` tokens.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
from divergence_reference import reverse_kl, softmax

STOP = 0
Array = np.ndarray
Completion = tuple[int, ...]


def prefixes(num_ids: int, length: int) -> list[Completion]:
    """All prefixes without STOP that a token may follow, in the order of the table's rows."""
    return [ids for n in range(length) for ids in product(range(STOP + 1, num_ids), repeat=n)]


def completions(num_ids: int, length: int) -> list[Completion]:
    """All of them."""
    ended = [(*prefix, STOP) for prefix in prefixes(num_ids, length)]
    return ended + list(product(range(STOP + 1, num_ids), repeat=length))


def rows_of(completion: Completion, table_rows: list[Completion]) -> list[int]:
    """Row of the table that predicts each token of `completion`."""
    return [table_rows.index(completion[:t]) for t in range(len(completion))]


def probability(completion: Completion, probs: Array, table_rows: list[Completion]) -> float:
    return float(np.prod([probs[row, y] for row, y in zip(rows_of(completion, table_rows), completion, strict=True)]))


def sequence_reverse_kl(teacher: Array, student: Array, length: int) -> float:
    """sum over y of q(y) * log(q(y) / p(y))."""
    table_rows, p, q = prefixes(student.shape[1], length), softmax(teacher), softmax(student)
    of = [[probability(y, probs, table_rows) for y in completions(student.shape[1], length)] for probs in (p, q)]
    return reverse_kl(np.array(of[0]), np.array(of[1]))


def summed_token_divergences(student: Array, length: int, divergence: Callable[[int, Array], float]) -> float:
    """sum over prefixes of q(prefix) * divergence(row of the prefix, q(. | prefix))."""
    table_rows, q = prefixes(student.shape[1], length), softmax(student)
    return sum(probability(prefix, q, table_rows) * divergence(row, q[row]) for row, prefix in enumerate(table_rows))
