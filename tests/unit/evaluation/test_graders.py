"""Which answers count as right."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.evaluation.exact_match import final_answer, matches
from gkd_dist.evaluation.gsm8k import answer_number, is_correct, last_number
from gkd_dist.rewards.answer import final_answer as rewarded_answer

DATA = Path(os.environ.get("GKD_TEST_DATA", Path(__file__).parents[4] / "shared/data"))
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("6 * 7 = 42\n#### 42", 42),
        ("#### $1,042.", 1042),
        ("#### 3\nno:\n#### 4", 4),
        ("A: 18", 18),
        ("so\nA: -5 degrees", -5),
        ("The answer is 6.", 6),
        ("Therefore, the final answer is: $2.50", 2.5),
        ("#### 1/2", 0.5),
        ("#### -\u20ac5", -5),
        ("The answer is 12 + 3 = 15.", 15),
        ("The answer is 6. He had 10 before.", 6),
        ("The answer is 3.50 dollars", 3.5),
        ("The answer is 5.\n#### 6\nThe answer is 7.", 6),
        ("IA: 3", None),
        ("it is 7", None),
        ("####", None),
        ("#### none\n5", None),
    ],
)
def test_the_marked_number_is_the_answer(text: str, number: float | None) -> None:
    assert answer_number(text) == number


def test_without_a_marker_the_last_number_counts_where_it_may() -> None:
    assert last_number("4 or 1,000 eggs") == 1000
    assert last_number("#### 3 and 4\n5") == 4
    assert last_number("so 10-5") == 5
    assert last_number("none") is None
    assert not is_correct("it is 7", "#### 7")
    assert is_correct("it is 7", "#### 7.0", marked=False)


TEXTS = st.text(alphabet="0123456789 .,/-+=$%\u20ac\nxe#ab", max_size=20)


@given(TEXTS, TEXTS)
def test_a_marked_answer_is_the_one_that_is_rewarded(before: str, after: str) -> None:
    text = f"{before}####{after}"
    assert answer_number(text) == rewarded_answer(text, "number")
    unmarked = text.replace("#", " ")
    assert last_number(unmarked) == rewarded_answer(unmarked, "number")


def test_a_reference_without_a_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="no number"):
        is_correct("#### 1", "none")


def test_all_upstream_verdicts_are_reproduced() -> None:
    file = DATA / "gsm8k" / "model_solutions_a.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"no {file} (GSM8K's model solutions; GKD_TEST_DATA names the folder above gsm8k/)")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    verdicts = [(row[model], row["ground_truth"]) for row in rows for model in MODELS]
    wrong = [own for own, truth in verdicts if is_correct(own["solution"], truth) != own["is_correct"]]
    assert (len(verdicts), wrong) == (2636, [])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2 < 3. So the answer is (B).", "(B)"),
        ("So the answer is } ] >.\n\nQ: next\nA: So the answer is no.", "} ] >"),
        ("The answer is: Yes", "Yes"),
        ("So the answer is\n(B)\nbecause", "(B)"),
        ("So the answer is:\n\n  (B).", "(B)"),
        ("first no. THE ANSWER IS (C).", "(C)"),
        ("the answer is (A). Wait: the Answer is (B).", "(B)"),
        ("So the answer is\n\nQ: next", ""),
        ("X. So the answer is (B). Q: Next? A: Hence the answer is (C).", "(B)"),
        ("The answer is (A). Wait: the answer is (B). Q: Next? A: the answer is (C).", "(B)"),
        ("So the answer is (B)\nQ: Next?\nA: So the answer is (C).", "(B)"),
        ("So the answer is Q: Next?", ""),
        ("P: it rains. Q: it is wet. So the answer is valid.", "valid"),
        ("So the answer is (B). Explanation: because it is.", "(B)"),
        ("So the answer is Yes . Because 1.5 > 1.", "Yes"),
        ("So the answer is -1.5. So there.", "-1.5"),
        ("the answer is (Q).", "(Q)"),
        ("first\nNo", "No"),
        ("", ""),
    ],
)
def test_the_final_answer_of_a_chain_of_thought(text: str, answer: str) -> None:
    assert final_answer(text) == answer


def test_exact_match_looks_at_every_letter() -> None:
    assert matches("So the answer is  Yes .", "Yes")
    assert not matches("So the answer is yes.", "Yes")
