import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.data.packing import pack, pack_trajectories
from tests import tiny

LENGTHS = st.lists(st.integers(1, 50), max_size=40)


@given(lengths=LENGTHS, max_tokens=st.integers(1, 120))
def test_groups_hold_every_index_once_within_the_budget(lengths: list[int], max_tokens: int) -> None:
    groups = pack(lengths, max_tokens)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert group
        assert sum(lengths[index] for index in group) <= max_tokens or len(group) == 1


@given(lengths=LENGTHS, max_tokens=st.integers(1, 120))
def test_groups_are_at_least_half_full_on_average(lengths: list[int], max_tokens: int) -> None:
    """No two groups would fit together: first fit had put the second one's sequences into the first."""
    loads = [sum(lengths[index] for index in group) for group in pack(lengths, max_tokens)]
    if len(loads) > 1:
        assert sum(loads) * 2 > max_tokens * len(loads)


@given(lengths=LENGTHS, max_tokens=st.integers(1, 120))
def test_equal_arguments_give_equal_groups(lengths: list[int], max_tokens: int) -> None:
    assert pack(lengths, max_tokens) == pack(list(lengths), max_tokens)


def test_groups_are_filled_evenly_where_that_takes_no_more_of_them() -> None:
    groups = pack([6, 6, 6, 1, 1, 1], 18)
    assert sorted(sum([6, 6, 6, 1, 1, 1][index] for index in group) for group in groups) == [9, 12]
    assert pack([5, 4, 3, 3, 3], 9) == [[0, 1], [2, 3, 4]]  # evenly would not fit: 5 + 3 + 3 and 4 + 3


def test_a_sequence_beyond_the_budget_stands_alone() -> None:
    assert pack([3, 9, 4, 3, 20], 12) == [[4], [1], [2, 0, 3]]  # 9 + 10, which is more even than 12 + 7
    assert pack([], 12) == []


@pytest.mark.parametrize(("lengths", "max_tokens"), [([1], 0), ([0], 5)])
def test_impossible_numbers_are_refused(lengths: list[int], max_tokens: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pack(lengths, max_tokens)


def test_sequences_follow_each_other_and_positions_restart() -> None:
    first, second = tiny.trajectories([(2, 3), (1, 2)])
    batch = pack_trajectories([first, second])
    parts = [first.prompt_ids, first.completion_ids, second.prompt_ids, second.completion_ids]
    np.testing.assert_array_equal(batch.input_ids, np.concatenate(parts))
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert batch.ends.tolist() == [0, 5, 8]
    assert batch.predicting.tolist() == [1, 2, 3, 5, 6]


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one trajectory"):
        pack_trajectories([])
    with pytest.raises(ValueError, match="prompt"):
        pack_trajectories(tiny.trajectories([(0, 3)]))
