import re
from collections import Counter
from fractions import Fraction

import pytest

from gkd_dist.data.word_problems import KINDS, TEMPLATES, word_problems
from gkd_dist.errors import DataError

NUMBER = r"\$?(\d+)"
EQUATION = re.compile(rf"{NUMBER}((?: [-+*/] {NUMBER})+) = {NUMBER}")


def value(expression: str) -> Fraction:
    """Value of `a op b op c` with the usual precedence, without floating point."""
    total, term, pending = Fraction(0), Fraction(0), "+"
    for operator, number in re.findall(r"(^|[-+*/]) ?\$?(\d+)", expression):
        if operator == "*":
            term *= int(number)
        elif operator == "/":
            term /= int(number)
        else:
            total = total + term if pending == "+" else total - term
            term, pending = Fraction(int(number)), operator or "+"
    return total + term if pending == "+" else total - term


@pytest.fixture(scope="module")
def problems():
    return word_problems(2_000, seed=0)


def test_value_of_the_test_s_own_calculator():
    assert value("$20 - 2 * $3 + 8 / 4") == 16
    assert value("5 * 2 / 4") == Fraction(5, 2)


def test_questions_of_the_first_2000_are_distinct(problems):
    assert len({row.prompt for row in problems}) == len(problems) == 2_000


def test_every_equation_of_every_solution_is_true(problems):
    for row in problems:
        equations = EQUATION.findall(row.completion)
        assert len(equations) == row.completion.count("=") >= 2, row.completion
        for match in EQUATION.finditer(row.completion):
            left, right = match.group().split(" = ")
            assert value(left) == int(right.lstrip("$")), row.completion


def test_last_equation_gives_the_answer_and_the_last_line_states_it(problems):
    for row in problems:
        *steps, last = row.completion.split("\n")
        assert 2 <= len(steps) <= 5, row.completion
        answer = re.fullmatch(r"#### (\d+)", last).group(1)
        assert EQUATION.findall(steps[-1])[-1][-1] == answer, row.completion


def test_numbers_of_a_solution_come_from_the_question_or_an_earlier_step(problems):
    constants = {1, 2, 4, 5, 7, 60, 100, 1000}  # halves, legs, rounds, weekdays, minutes, percent, meters
    words = {"half": 2, "third": 3, "twice": 2, "three": 3, "four": 4, "five": 5}
    for row in problems:
        known = constants | {int(number) for number in re.findall(r"\d+", row.prompt)}
        known |= {number for word, number in words.items() if word in row.prompt}
        for match in EQUATION.finditer(row.completion):
            left, right = match.group().split(" = ")
            unknown = {int(number) for number in re.findall(r"\d+", left)} - known
            assert not unknown, (unknown, row)
            known.add(int(right.lstrip("$")))


def test_nouns_agree_with_their_numbers(problems):
    plural = (
        r"(?:apples|pears|peaches|oranges|plums|lemons|mangoes|cookies|muffins|slices|hours|days|weeks|points|legs)"
    )
    for row in problems:
        text = f"{row.prompt}\n{row.completion}"
        assert not re.search(rf"(?<![\d$/])\b1 {plural}\b", text), text
        assert not re.search(r"\b(?:0|[2-9]|\d\d+) (?:apple|muffin|cookie|slice|hour|day|week|point|mile)\b", text), (
            text
        )
        assert not re.search(r"\ba [aeio]\w+|\ban (?!hour)[^aeiou\s]\w+", text), text


def test_sentences_are_well_formed(problems):
    for row in problems:
        assert row.prompt[0].isupper() or row.prompt[0].isdigit()
        assert row.prompt.endswith("?")
        assert "  " not in row.prompt and "{" not in row.prompt and row.prompt.isascii()
        for step in row.completion.split("\n")[:-1]:
            assert step.endswith(".") and "  " not in step and "{" not in step
            assert step[0].isupper() or step[0].isdigit() or step[0] == "$"


def test_every_round_uses_every_template_once(monkeypatch):
    used = []
    counting = tuple(lambda draw, t=template: used.append(t) or t(draw) for template in TEMPLATES)
    monkeypatch.setattr("gkd_dist.data.word_problems.TEMPLATES", counting)
    word_problems(2 * len(TEMPLATES), seed=5)
    assert len(TEMPLATES) >= 25
    assert set(used[: len(TEMPLATES)]) == set(used[len(TEMPLATES) :]) == set(TEMPLATES)


def test_the_source_of_a_problem_is_its_kind(problems):
    counts = Counter(row.source for row in problems)
    assert counts.keys() == KINDS.keys()
    for kind, number in counts.items():  # every round uses every template once
        assert number == pytest.approx(len(problems) * len(KINDS[kind]) / len(TEMPLATES), rel=0.1)


def test_rows_depend_on_the_seed_alone():
    assert word_problems(60, seed=3) == word_problems(200, seed=3)[:60]
    assert word_problems(60, seed=3) != word_problems(60, seed=4)


def test_problems_stay_distinct_far_beyond_the_default_size():
    rows = word_problems(12_000, seed=1)
    assert len({row.prompt for row in rows}) == 12_000


def test_negative_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="-1"):
        word_problems(-1, seed=0)
    assert word_problems(0, seed=0) == []


def test_running_out_of_questions_says_so(monkeypatch):
    from gkd_dist.data import word_problems as module
    from gkd_dist.data.problems.language import Problem

    monkeypatch.setattr(module, "TEMPLATES", (lambda draw: Problem("Why?", ("1 + 1 = 2.",), 2),))
    with pytest.raises(DataError, match="after 1 rows"):
        module.word_problems(2, seed=0)
