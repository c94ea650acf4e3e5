from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.data.collate import collate, collate_pairs, micro_batches, pad, paired_micro_batches
from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.types import SampleId
from tests import tiny

LENGTHS = st.lists(st.integers(1, 50), max_size=40)


def trajectory(prompt, completion):
    return fixed_trajectory(
        SampleId("r", 0), np.array(prompt, dtype=np.int32), np.array(completion, dtype=np.int32), max_new_tokens=9
    )


@given(lengths=LENGTHS, max_tokens=st.integers(1, 120))
def test_groups_hold_every_index_once_within_the_limit(lengths, max_tokens):
    groups = micro_batches(lengths, max_tokens)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * max(lengths[index] for index in group)
        assert padded <= max_tokens or len(group) == 1


@given(lengths=LENGTHS, max_tokens=st.integers(1, 120))
def test_groups_are_of_similar_length(lengths, max_tokens):
    groups = micro_batches(lengths, max_tokens)
    in_order = [lengths[index] for group in groups for index in group]
    assert in_order == sorted(lengths, reverse=True)
    for group in groups[:-1]:
        # Only the last group could have taken one more.
        assert (len(group) + 1) * max(lengths[index] for index in group) > max_tokens


def test_groups_of_an_example():
    assert micro_batches([3, 9, 4, 3, 20], 12) == [[4], [1], [2, 0, 3]]
    assert micro_batches([], 12) == []


def test_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match="max_tokens"):
        micro_batches([1], 0)
    with pytest.raises(ValueError, match="every length"):
        micro_batches([1, 0], 5)


def test_sequences_are_padded_on_the_right():
    batch = collate([trajectory([5, 6, 7], [8]), trajectory([5], [0, 1])], pad_token_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [5, 0, 1, 0]]
    assert batch.attention_mask.tolist() == [[True] * 4, [True, True, True, False]], "by position, not by id"
    assert (batch.prompt_lengths.tolist(), batch.completion_lengths.tolist()) == ([3, 1], [1, 2])
    assert (batch.input_ids.dtype, batch.attention_mask.dtype) == (np.int64, np.bool_)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8))
def test_lengths_recover_prompt_and_completion(shapes):
    trajectories = [trajectory(range(1, 1 + p), range(50, 50 + c)) for p, c in shapes]
    batch = collate(trajectories, pad_token_id=0)
    for row, mask, p, c, original in zip(
        batch.input_ids,
        batch.attention_mask,
        batch.prompt_lengths,
        batch.completion_lengths,
        trajectories,
        strict=True,
    ):
        assert row[:p].tolist() == original.prompt_ids.tolist()
        assert row[p : p + c].tolist() == original.completion_ids.tolist()
        assert mask.sum() == p + c == original.num_tokens
        assert not row[p + c :].any()


def test_empty_batch_is_refused():
    with pytest.raises(ValueError, match="at least one trajectory"):
        collate([], pad_token_id=0)


def test_pairs_are_padded_apart_and_completions_shifted_behind_the_start_id() -> None:
    trajectories = tiny.trajectories([(3, 2), (1, 4)])
    batch = collate_pairs(trajectories, pad_token_id=0, start_id=9)
    first, second = (each.prompt_ids for each in trajectories)
    a, b = (each.completion_ids for each in trajectories)
    np.testing.assert_array_equal(batch.input_ids, [first, [second[0], 0, 0]])
    np.testing.assert_array_equal(batch.attention_mask, [[True] * 3, [True, False, False]])
    np.testing.assert_array_equal(batch.decoder_input_ids, [[9, a[0], a[1], 0], [9, b[0], b[1], b[2]]])
    np.testing.assert_array_equal(batch.predicting, [0, 1, 4, 5, 6, 7])


def test_rows_are_padded_on_either_side() -> None:
    rows = [np.array([5, 6, 7], np.int32), np.array([8], np.int32)]
    ids, mask = pad(rows, 1, left=True)
    np.testing.assert_array_equal(ids, [[5, 6, 7], [1, 1, 8]])
    np.testing.assert_array_equal(mask, [[True, True, True], [False, False, True]])
    np.testing.assert_array_equal(pad(rows, 1)[0], [[5, 6, 7], [8, 1, 1]])


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=30), st.integers(1, 200))
def test_groups_of_pairs_hold_every_row_once_within_the_budget(shapes: list[tuple[int, int]], budget: int) -> None:
    groups = paired_micro_batches(shapes, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(shapes)))
    for group in groups:
        longest = max(shapes[index][0] for index in group) + max(shapes[index][1] for index in group)
        assert len(group) == 1 or len(group) * longest <= budget
    for one, next_one in pairwise(groups):
        joined = [*one, next_one[0]]
        longest = max(shapes[index][0] for index in joined) + max(shapes[index][1] for index in joined)
        assert len(joined) * longest > budget


def test_pairs_without_tokens_or_budget_are_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        paired_micro_batches([(1, 1)], 0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        paired_micro_batches([(3, 1), (2, 0)], 8)
