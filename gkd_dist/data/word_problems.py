"""Embedded data set: grade-school word problems with worked solutions (floor F2).

Our own templates (`data/problems/`) with drawn names, objects and numbers. Answers are integers, and the
solution ends with a line `#### ANSWER` as in GSM8K, so that the same answer grader reads both. Nothing is
stored: the same seed gives the same rows, and fewer rows are a prefix of more rows.
"""

import random

from gkd_dist.data.problems import counting, money, rates, shares
from gkd_dist.data.problems.language import Draw, Problem, Template
from gkd_dist.data.rows import Row
from gkd_dist.errors import DataError

KINDS: dict[str, tuple[Template, ...]] = {
    "money": money.TEMPLATES,
    "counting": counting.TEMPLATES,
    "rates": rates.TEMPLATES,
    "shares": shares.TEMPLATES,
}
TEMPLATES: tuple[Template, ...] = tuple(template for templates in KINDS.values() for template in templates)
_KIND_OF = {template: kind for kind, templates in KINDS.items() for template in templates}
MAX_TRIES = 20
"""Draws of one template before it counts as used up."""


def word_problems(num_rows: int, seed: int) -> list[Row]:
    """`num_rows` problems, no two questions equal; the source of each is its kind, a key of `KINDS`.

    Every round of `len(TEMPLATES)` rows uses each template once, in a drawn order.

    Raises:
        DataError: there are not that many different questions.
    """
    if num_rows < 0:
        raise ValueError(f"num_rows must not be negative, got {num_rows}")
    rng = random.Random(f"word problems/{seed}")
    draw = Draw(rng)
    rows: list[Row] = []
    seen: set[str] = set()
    while len(rows) < num_rows:
        num_before = len(rows)
        for template in rng.sample(TEMPLATES, len(TEMPLATES)):
            problem = _new_problem(template, draw, seen)
            if problem is not None:
                seen.add(problem.question)
                rows.append(Row(problem.question, solution(problem), _KIND_OF.get(template)))
        if len(rows) == num_before:
            raise DataError(f"the embedded word problems end after {num_before} rows; ask for fewer than {num_rows}")
    return rows[:num_rows]


def solution(problem: Problem) -> str:
    """The worked steps, one a line, then `#### ANSWER`."""
    return "\n".join((*problem.steps, f"#### {problem.answer}"))


def _new_problem(template: Template, draw: Draw, seen: set[str]) -> Problem | None:
    for _ in range(MAX_TRIES):
        problem = template(draw)
        if problem.question not in seen:
            return problem
    return None
