"""Small rules of the doors."""

import logging
import math

import pytest

from gkd_dist.commands import _closing, _fall, _known, _text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (2.0, 1.0, "50%"),
        (2.0, 3.0, "-50%"),
        (0.0, 0.0, "-"),
        (9e-5, 1.0, "-"),
        (math.nan, 1.0, "-"),
        (1.0, math.nan, "-"),
    ],
)
def test_the_fall_is_a_share_of_what_is_large_enough_to_divide_by(before: float, after: float, text: str) -> None:
    assert _fall(before, after) == text


def test_what_the_transport_cannot_tell_is_not_available() -> None:
    assert (_text(math.nan), _text(0.12345)) == ("n/a", "0.123")
    assert _known({"a": math.nan, "b": 0.5}) == {"a": None, "b": 0.5}


class Stuck:
    def close(self) -> None:
        raise OSError("the disk is full")


def test_closing_never_hides_what_went_wrong(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="the cause"), _closing(Stuck()):
        raise ValueError("the cause")
    assert "the disk is full" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    with pytest.raises(OSError, match="the disk is full"), _closing(Stuck()):
        pass
