"""The enumeration itself."""

import numpy as np
import pytest
import sequence_reference as reference
from divergence_reference import reverse_kl, softmax


def test_completions_are_all_there_is():
    assert reference.prefixes(3, 2) == [(), (1,), (2,)]
    assert set(reference.completions(3, 2)) == {(0,), (1, 0), (2, 0), (1, 1), (1, 2), (2, 1), (2, 2)}
    q = softmax(np.random.default_rng(0).normal(size=(7, 3)))
    total = sum(reference.probability(y, q, reference.prefixes(3, 3)) for y in reference.completions(3, 3))
    assert total == pytest.approx(1, abs=1e-12)


def test_the_kl_of_sequences_is_the_sum_of_the_kl_of_tokens_under_the_student():
    """The chain rule, which holds for the KL alone."""
    rng = np.random.default_rng(1)
    teacher, student = rng.normal(size=(7, 3)), rng.normal(size=(7, 3))
    p = softmax(teacher)
    by_token = reference.summed_token_divergences(student, 3, lambda row, q: reverse_kl(p[row], q))
    assert by_token == pytest.approx(reference.sequence_reverse_kl(teacher, student, 3), rel=1e-12)
