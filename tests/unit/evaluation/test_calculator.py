"""What the calculator writes behind `=`."""

import gzip
import json
import os
import re
import time
from pathlib import Path

import pytest

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
        ("on $1,000 - $1 =", None, " 999"),
        ("7 = 5 + 2 =", None, " 7"),
        ("", None, None),
    ],
)
def test_continuation(text: str, annotations: str | None, equations: str | None) -> None:
    assert (ANNOTATIONS.continuation(text), EQUATIONS.continuation(text)) == (annotations, equations)


@pytest.mark.parametrize(
    ("expression", "shown"),
    [("8/4", "2"), ("1/8", "0.125"), ("-1/3", "-0.3333"), ("0.1+0.2", "0.3"), ("10**15", None), ("1/10**6", None)],
)
def test_values_are_written_as_in_gsm8k(expression: str, shown: str | None) -> None:
    assert shown_value(expression) == shown


@pytest.mark.parametrize("text", ["1" * 400, "1+" * 200, "1,1." * 100, "(" * 400, "$ " * 200, "1 + (" * 80])
def test_odd_text_costs_no_time(text: str) -> None:
    began = time.process_time()
    for ending in ("=", "x=", " ="):
        EQUATIONS.continuation(text + ending)
        ANNOTATIONS.continuation("<<" + text + ending)
    assert time.process_time() - began < 1  # of milliseconds; a pattern that goes back and forth takes minutes


def test_annotations_of_the_training_set_agree_with_the_calculator() -> None:
    """Up to the rounding of those who wrote them."""
    file = Path(os.environ.get("GKD_TEST_DATA", Path(__file__).parents[4] / "shared/data")) / "gsm8k/train.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"no {file} (GSM8K's training set; GKD_TEST_DATA names the folder above gsm8k/)")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        answers = [json.loads(line)["answer"] for line, _ in zip(lines, range(1000), strict=False)]
    pairs = [pair for answer in answers for pair in re.findall(r"<<([^<>=]*)=([^<>=]*)>>", answer)]
    known = [(shown_value(expression), value) for expression, value in pairs]
    close = [_is_close(shown, value) for shown, value in known if shown is not None]
    assert len(close) > 0.98 * len(pairs) > 3000
    assert sum(close) > 0.98 * len(close)


def _is_close(shown: str, value: str) -> bool:
    try:
        written = float(value.replace(",", "").strip("$%"))
    except ValueError:
        return False
    return abs(float(shown) - written) <= 0.05 * max(1.0, abs(written))
