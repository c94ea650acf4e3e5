"""Errors as one line to read."""

import pytest

from gkd_dist.errors import EngineError, plain


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(28, "No space left on device", "/data/ledger.jsonl"), "No space left on device: /data/ledger.jsonl"),
        (TimeoutError(), "TimeoutError"),
        (EngineError("the sampler died\nat once"), "the sampler died"),
        (EngineError(), "EngineError"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError("\n  bad\nworse"), "ValueError: bad"),
    ],
)
def test_an_error_is_said_without_numbers_brackets_and_further_lines(error: Exception, line: str) -> None:
    assert plain(error) == line
