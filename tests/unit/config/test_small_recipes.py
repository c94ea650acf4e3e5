"""Small recipes are those of the paper but for the keys that docs/paper.md lists."""

from pathlib import Path

import pytest

from gkd_dist.config.load import load_run_config
from gkd_dist.experiments.identity import leaves

PAGE = Path(__file__).parents[3] / "docs" / "paper.md"
HEAD = "| keys | in | paper | small |"
TASKS = {"paper/xsum": "small/aeslc", "paper/wmt14": "small/multi30k", "paper/gsm8k": "small/arithmetic"}
NAMES = {"small/aeslc": "AESLC", "small/multi30k": "Multi30k", "small/arithmetic": "word problems"}
KINDS = {"": "distillation", "-sft-teacher": "SFT", "-sft-student": "SFT"}
PAIRS = [
    (paper + kind, small + kind, {"all", NAMES[small], KINDS[kind]}) for paper, small in TASKS.items() for kind in KINDS
]
"""(recipe of the paper, small one, what the table may call it)."""


def listed() -> list[tuple[str, frozenset[str]]]:
    """(key, where it differs) of each key in the table."""
    rows = PAGE.read_text(encoding="utf-8").split(HEAD)[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [(key.strip("` "), frozenset(where.split(", "))) for keys, where, *_ in cells for key in keys.split(",")]


def differing(paper: str, small: str) -> set[str]:
    there, here = (dict(leaves("", load_run_config(name).model_dump(mode="json"))) for name in (paper, small))
    return {key for key in there.keys() | here.keys() if there.get(key) != here.get(key)}


def covers(key: str, found: str) -> bool:
    """A section stands for its keys."""
    return found == key or found.startswith(f"{key}.")


@pytest.mark.parametrize(("paper", "small", "places"), PAIRS, ids=[small for _, small, _ in PAIRS])
def test_a_small_recipe_differs_in_keys_that_the_page_lists_and_in_no_others(
    paper: str, small: str, places: set[str]
) -> None:
    allowed = [key for key, where in listed() if where & places]
    assert {found for found in differing(paper, small) if not any(covers(key, found) for key in allowed)} == set()


def test_every_key_of_the_page_differs_where_it_says() -> None:
    found = [(places, differing(paper, small)) for paper, small, places in PAIRS]
    known = {place for places, _ in found for place in places}
    for key, where in listed():
        assert where <= known, key
        for place in where:
            assert any(covers(key, each) for places, keys in found if place in places for each in keys), (key, place)
