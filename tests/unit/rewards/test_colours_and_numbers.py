"""The reward for colours and numbers: which words say which, and what a mistake costs."""

import asyncio
import subprocess
import sys

import pytest

from gkd_dist.rewards.colours_and_numbers import agreement, english, german
from gkd_dist.rewards.function import FunctionReward
from gkd_dist.types import Answer


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Zwei Hunde mit rotem Halsband.", {"2", "red"}),
        ("ein schwarz-wei\u00dfer Hund, ein schwarzwei\u00dfes Foto", {"black", "white"}),
        ("hellblaue Jeans, dunkelgr\u00fcne Wand", {"blue", "green"}),
        ("orangefarbenen, rosafarbene, lilane H\u00fcte", {"orange", "pink", "purple"}),
        ("eine rosarote Brille", {"pink"}),  # not red
        ("ein rotbraunes Pferd", {"red", "brown"}),
        ("goldene und silberne Ringe", {"gold", "silver"}),
        ("eine blonde Frau, ein grauhaariger Mann", {"blond", "grey"}),
        ("Weisse Wand", {"white"}),
        ("eine schwarzrotgoldene Fahne", {"black", "red", "gold"}),
        ("die Nummer 07 vor zw\u00f6lf Leuten", {"7", "12"}),
        ("00", {"0"}),
        ("0" + "1" * 5000, {"1" * 5000}),  # more digits than Python makes a number of
        ("Er macht Brot in der Nacht, schwei\u00dft und serviert am Klavier.", set()),
        ("Achterbahn, Zweige, Helfer, Trottoir, Elfen", set()),
        ("ein Mann, eine Frau", set()),
    ],
)
def test_what_german_surely_says(text: str, said: set[str]) -> None:
    assert german(text).surely == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Two dogs, one with a RED collar.", {"2", "red"}),
        ("a gray-haired man in a grey coat", {"grey"}),
        ("a purple and gold flag, number 10", {"purple", "gold", "10"}),
        ("a covered bored man scared of Greenland", set()),
    ],
)
def test_what_english_surely_says(text: str, said: set[str]) -> None:
    assert english(text).surely == said


@pytest.mark.parametrize(
    ("source", "text", "reward"),
    [
        ("Two red birds.", "Zwei rote V\u00f6gel.", 1.0),
        ("Two red birds.", "Zwei V\u00f6gel.", 2 / 3),  # precision 1, recall 1/2
        ("Two red birds.", "Zwei rote V\u00f6gel auf gr\u00fcnem Gras.", 4 / 5),  # precision 2/3, recall 1
        ("Two red birds.", "Drei blaue V\u00f6gel.", 0.0),
        ("Two red birds.", "", 0.0),
        ("A bird.", "Ein Vogel.", 1.0),
        ("A bird.", "Ein roter Vogel.", 0.0),
        ("A couple on a tricycle.", "Ein Paar auf einem Dreirad.", 1.0),
        ("A couple.", "Zwei Menschen.", 1.0),  # neither vague word asks for anything, and both excuse
        ("A couple.", "Menschen.", 1.0),
        ("Two people.", "Ein Paar.", 1.0),
        ("A man on the lawn.", "Ein Mann auf der Gr\u00fcnfl\u00e4che.", 1.0),
        ("A tan dog.", "Ein hellbrauner Hund.", 1.0),
        ("Red, red, red.", "Rot.", 1.0),  # sets, not counts
    ],
)
def test_a_reward_is_the_f1_of_what_both_say(source: str, text: str, reward: float) -> None:
    assert agreement([source], [text]) == [pytest.approx(reward)]


def test_a_word_that_repeats_itself_is_read_at_once() -> None:
    """In a process of its own: a search for all ways to read it would outlast any run."""
    program = (
        "from gkd_dist.rewards.colours_and_numbers import german\n"
        "print(german('rosarot' * 60 + 'x'), german('purpurrot' * 60 + 'x'), german('rosarot' * 60))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("surely=frozenset(), perhaps=") == 3


def test_it_is_found_by_its_name() -> None:
    """As reward.function names it in the packaged figure."""

    async def judged() -> list[float]:
        reward = FunctionReward("gkd_dist.rewards.colours_and_numbers:agreement", timeout_s=60)
        try:
            return await reward.judge([Answer("A red car.", "Ein rotes Auto.", None), Answer("A red car.", "x", "y")])
        finally:
            await reward.close()

    assert asyncio.run(judged()) == [1.0, 0.0]
