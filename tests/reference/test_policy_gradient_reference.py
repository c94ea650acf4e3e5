"""The reference itself: probabilities that sum to 1, and a gradient that finite differences confirm."""

import torch

from tests.reference.policy_gradient_reference import expected_reward, prefixes, sequences


def test_the_policy_writes_every_sequence_once_and_its_probabilities_sum_to_one() -> None:
    written = sequences(3, 2)
    assert sorted(written) == [(0,), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert prefixes(3, 2) == [(), (1,), (2,)]
    torch.manual_seed(0)
    table, head = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    rows_of = {item: [prefixes(3, 2).index(item[:length]) for length in range(len(item))] for item in written}
    assert abs(expected_reward(table, head, rows_of, lambda _: 1.0).item() - 1) < 1e-12
    assert torch.autograd.gradcheck(
        lambda table, head: expected_reward(table, head, rows_of, lambda item: float(sum(item))),
        (table.requires_grad_(), head.requires_grad_()),
    )
