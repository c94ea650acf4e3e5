import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.replay.staleness import admissible, from_future, staleness
from gkd_dist.types import VersionRange


def test_staleness_counts_from_the_oldest_version():
    assert staleness(VersionRange(3, 5), 7) == 4
    assert staleness(VersionRange(7, 7), 7) == 0


def test_fixed_pairs_never_age():
    assert staleness(None, 1_000) == 0
    assert admissible(None, 1_000, 0)
    assert not from_future(None, 0)


def test_version_the_learner_has_not_reached_is_an_error():
    with pytest.raises(ValueError, match="policy version 8, but the learner is at 7"):
        staleness(VersionRange(3, 8), 7)
    assert not admissible(VersionRange(3, 8), 7, max_staleness=100)


@pytest.mark.parametrize(
    ("oldest", "newest", "learner_version", "max_staleness", "expected"),
    [(0, 0, 0, 0, True), (0, 1, 1, 0, False), (1, 1, 1, 0, True), (0, 1, 1, 1, True), (2, 4, 6, 3, False)],
)
def test_admissible(oldest, newest, learner_version, max_staleness, expected):
    assert admissible(VersionRange(oldest, newest), learner_version, max_staleness) is expected


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 20), st.integers(0, 20), st.integers(0, 5))
def test_what_is_too_stale_stays_so(oldest, span, version, later, max_staleness):
    versions = VersionRange(oldest, oldest + span)
    version += versions.newest
    if not admissible(versions, version, max_staleness):
        assert not admissible(versions, version + later, max_staleness)
