"""What the calculator writes behind `=`."""

import gzip
import json
import os
import re
import time
from pathlib import Path

import pytest

from gkd_dist.data.word_problems import word_problems
from gkd_dist.evaluation.calculator import Calculator, shown_value

ANNOTATIONS, EQUATIONS = Calculator("annotations"), Calculator("equations")


@pytest.mark.parametrize(
    ("text", "annotations", "equations"),
    [
        ("He has 48/2 = <<48/2=", "24>>", "24>>"),
        ("He has 48/2 =", None, " 24"),
        ("<<48/2=24>>24 and 3 + 4 =", None, " 7"),
        ("<<1,000*2=", "2000>>", "2000>>"),
        ("<<10/3=", "3.3333>>", "3.3333>>"),
        ("<<apples=", None, None),
        ("<<1/0=", None, None),
        ("x =", None, None),
        ("12 =", None, None),
        ("<<48/2", None, None),
        ("(3 + 4) * 2 =", None, " 14"),
        ("3 + 4\n=", None, None),
        ("- 3 + 4 =", None, " 7"),
        ("He has 2 bags, 3 x 4 =", None, " 12"),
        ("w3 + 4 =", None, None),
        ("on $1,000 - $1 =", None, " $999"),
        ("7 = 5 + 2 =", None, " 7"),
        ("", None, None),
    ],
)
def test_continuation(text: str, annotations: str | None, equations: str | None) -> None:
    assert (ANNOTATIONS.continuation(text), EQUATIONS.continuation(text)) == (annotations, equations)


@pytest.mark.parametrize(
    ("text", "forced"),
    [
        ("costs 16 * $12 =", " $192"),
        ("$5 - $8 =", " -$3"),
        ("$216 / $12 =", " 18"),  # dollars per dollar
        ("48/2=", "24"),  # no space where the model writes none
        ("it is .05 x 2000 =", " 100"),
        ("is -5 + 3 =", None),  # `is` could be what is subtracted from
        ("so: -5 + 3 =", " -2"),
        ("Then, -5 + 3 =", " -2"),
        ("-14 + (-8) =", " -22"),
        ("a-5+3=", None),
        ("P + 6 + 3 =", None),
        ("s+55-20=", None),
        ("40 marbles - 3 - 5 =", None),
        ("72 cubic ft * 3/4 =", None),
        ("20 balls x (1 / 4) =", None),
        ("(a + b) - 5 + 3 =", None),
        ("Total:x+4x-7+8x-14=", None),
        ("4x-7+2=", None),
        ("f(3 + 4) =", None),
        ("at 6:00+48=", None),
        ("\u20ac50 - 8 =", None),
        ("100% - 40% =", None),
        ("70% * 50% =", None),
        ("3/5 * 100% =", None),
        ("75% / 5 =", None),
        ("250 * 60% =", " 150"),
        ("10% x $130 =", " $13"),
        ("28 / 1/7 =", None),
        ("1 - 1/3 =", None),  # 0.6667 would be wrong from here on
        ("1 - 1/4 =", " 0.75"),
    ],
)
def test_an_equation_is_answered_only_where_its_left_side_is_sure(text: str, forced: str | None) -> None:
    assert EQUATIONS.continuation(text) == forced
    assert ANNOTATIONS.continuation(text) is None


def test_what_is_forced_is_what_the_embedded_solutions_say() -> None:
    texts = [row.completion or "" for row in word_problems(500, 0)]
    pairs = [
        (EQUATIONS.continuation(text[: found.end()]), text[found.end() :])
        for text in texts
        for found in re.finditer("=", text)
    ]
    assert len(pairs) > 1000
    assert [(forced, after) for forced, after in pairs if forced is None or not after.startswith(forced)] == []


@pytest.mark.parametrize(
    ("expression", "shown"),
    [("8/4", "2"), ("1/8", "0.125"), ("-1/3", "-0.3333"), ("0.1+0.2", "0.3"), ("10**15", None), ("1/10**6", None)],
)
def test_values_are_written_as_in_gsm8k(expression: str, shown: str | None) -> None:
    assert shown_value(expression) == shown


@pytest.mark.parametrize(
    "text",
    ["1" * 400, "1+" * 200, "1,1." * 100, "(" * 400, "$ " * 200, "1 + (" * 80, "1x" * 200, "9%*" * 130, ".,)" * 130],
)
def test_odd_text_costs_no_time(text: str) -> None:
    began = time.process_time()
    for ending in ("=", "x=", " ="):
        EQUATIONS.continuation(text + ending)
        ANNOTATIONS.continuation("<<" + text + ending)
    assert time.process_time() - began < 1  # of milliseconds; a pattern that goes back and forth takes minutes


def test_annotations_of_the_training_set_agree_with_the_calculator() -> None:
    """Up to the rounding of those who wrote them."""
    pairs = [pair for answer in training_answers() for pair in re.findall(r"<<([^<>=]*)=([^<>=]*)>>", answer)]
    known = [(shown_value(expression), value) for expression, value in pairs]
    close = [_is_close(shown, value) for shown, value in known if shown is not None]
    assert len(close) > 0.98 * len(pairs) > 3000
    assert sum(close) > 0.98 * len(close)


def test_equations_of_the_training_set_are_not_broken() -> None:
    """Annotations taken out, as T5 is trained. What the calculator writes is the number that stands there."""
    texts = [re.sub("<<[^>]*>>", "", answer) for answer in training_answers()]
    places = [(text, found.end()) for text in texts for found in re.finditer("=", text)]
    forced = [(own, text[end:]) for text, end in places if (own := EQUATIONS.continuation(text[:end])) is not None]
    numbers = [(own, re.match(r" ?-?\$?([\d,]*\.?\d+)(?! ?[-+*/x%] ?\d)", after)) for own, after in forced]
    right = sum(found is not None and _is_close(own.strip(" -$"), found[1]) for own, found in numbers)
    assert len(forced) > 0.7 * len(places) > 2000
    assert right > 0.985 * len(forced)
    assert sum(after.startswith(own) for own, after in forced) > 0.8 * len(forced)


def training_answers() -> list[str]:
    file = Path(os.environ.get("GKD_TEST_DATA", Path(__file__).parents[4] / "shared/data")) / "gsm8k/train.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"no {file} (GSM8K's training set; GKD_TEST_DATA names the folder above gsm8k/)")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["answer"] for line, _ in zip(lines, range(1000), strict=False)]


def _is_close(shown: str, value: str) -> bool:
    try:
        written = float(value.replace(",", "").strip("$%"))
    except ValueError:
        return False
    return abs(float(shown) - written) <= 0.05 * max(1.0, abs(written))
