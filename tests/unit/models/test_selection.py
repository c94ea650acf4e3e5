from collections.abc import Callable, Collection
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from gkd_dist.models.calibration import CalibrationText
from gkd_dist.models.importance import RemovalMeter, encode_texts
from gkd_dist.models.selection import choose_layers_to_drop, select_layers


class TableMeter:
    """Costs from a function of the set of dropped layers; counts measurements."""

    def __init__(self, num_layers: int, cost: Callable[[frozenset[int]], float]) -> None:
        self.num_layers = num_layers
        self.num_measured = 0
        self._cost = cost
        self._base: frozenset[int] = frozenset()

    def rebase(self, dropped: Collection[int]) -> float:
        self._base = frozenset(dropped)
        return self._cost(self._base)

    def also_without(self, layer: int) -> float:
        assert layer not in self._base
        self.num_measured += 1
        return self._cost(self._base | {layer})


@given(
    costs=st.lists(st.integers(1, 1000), min_size=3, max_size=9, unique=True),
    data=st.data(),
)
def test_independent_costs_drop_the_cheapest(costs: list[int], data: st.DataObject) -> None:
    num_dropped = data.draw(st.integers(1, len(costs) - 1))
    meter = TableMeter(len(costs), lambda dropped: float(sum(costs[layer] for layer in dropped)))
    choice = select_layers(meter, num_dropped)
    assert sorted(costs[layer] for layer in choice.dropped) == sorted(costs)[:num_dropped]
    assert choice.single_kl_nats == tuple(map(float, costs))
    assert choice.kl_nats == pytest.approx(sum(sorted(costs)[:num_dropped]))


def test_cheap_neighbours_that_are_dear_together_are_not_both_dropped() -> None:
    costs = (1.0, 1.1, 1.2, 2.0, 9.0)

    def cost(dropped: frozenset[int]) -> float:
        return sum(costs[layer] for layer in dropped) + (50.0 if {0, 1} <= dropped else 0.0)

    assert select_layers(TableMeter(5, cost), 2).dropped == (0, 2)


def test_a_swap_mends_a_greedy_first_step() -> None:
    costs = (1.0, 1.5, 1.6, 30.0, 40.0)

    def cost(dropped: frozenset[int]) -> float:
        # The cheapest single layer goes badly with every other; 1 and 2 go well together.
        return sum(costs[layer] for layer in dropped) + (10.0 if 0 in dropped and len(dropped) > 1 else 0.0)

    choice = select_layers(TableMeter(5, cost), 2)
    assert choice.dropped == (1, 2)
    assert choice.kl_nats == pytest.approx(3.1)


def test_lazy_greedy_measures_far_less_than_plain_greedy() -> None:
    meter = TableMeter(30, lambda dropped: float(sum(layer + 1 for layer in dropped)))
    select_layers(meter, 6)
    singles, per_round, swaps = 30, 5, 6 * 4
    assert meter.num_measured <= singles + per_round + swaps


def test_choice_on_a_model_is_no_worse_than_one_shot_and_near_the_best(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = (CalibrationText("2 + 2", "is 4, and 4 + 4 is 8"),)
    meter = RemovalMeter(model, encode_texts(tokenizer, texts))
    chosen = choose_layers_to_drop(model, tokenizer, 3, texts)
    assert len(chosen) == 2 and list(chosen) == sorted(chosen)
    costs = {pair: meter.rebase(pair) for pair in combinations(range(5), 2)}
    meter.rebase(())
    one_shot = tuple(sorted(sorted(range(5), key=meter.also_without)[:2]))
    assert costs[chosen] <= costs[one_shot] * 1.0001
    # All one-layer swaps were tried, and a pair is at most two swaps from the best pair.
    assert costs[chosen] <= sorted(costs.values())[2]
