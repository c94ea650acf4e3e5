from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.replay.sample_ids import SampleIdSet
from gkd_dist.types import SampleId

PLACES = st.tuples(st.integers(0, 25), st.integers(0, 2))


@given(st.lists(PLACES, max_size=60))
def test_behaves_as_a_set(places):
    ids, reference = SampleIdSet(), set()
    for place in places:
        ids.add(SampleId("r", *place))
        reference.add(place)
        assert len(ids) == len(reference)
    for place in [(prompt, repeat) for prompt in range(27) for repeat in range(4)]:
        assert (SampleId("r", *place) in ids) == (place in reference)


@given(st.lists(PLACES, max_size=60))
def test_ranges_are_maximal_and_restore_the_set(places):
    ids = SampleIdSet()
    ids.update(SampleId("r", *place) for place in places)
    for pairs in ids.ranges().values():
        assert all(start < end for start, end in pairs)
        assert all(end < start for (_, end), (start, _) in pairwise(pairs))
    assert SampleIdSet(ids.ranges()).ranges() == ids.ranges()


def test_a_long_run_takes_one_range():
    ids = SampleIdSet()
    ids.update(SampleId("r", index ^ 3) for index in range(10_000))  # out of order within fours
    assert ids.ranges() == {0: [(0, 10_000)]}
    assert len(ids) == 10_000


@pytest.mark.parametrize("pairs", [[(3, 3)], [(3, 5), (5, 7)], [(3, 5), (1, 2)], [(5, 3)]])
def test_damaged_ranges_are_refused(pairs):
    with pytest.raises(ValueError, match="repeat index 0"):
        SampleIdSet({0: pairs})


def test_restored_set_shares_nothing_with_its_source():
    ids = SampleIdSet({0: [(0, 2)]})
    copy = SampleIdSet(ids.ranges())
    copy.add(SampleId("r", 2))
    assert SampleId("r", 2) not in ids
