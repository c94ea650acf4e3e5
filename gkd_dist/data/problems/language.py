"""The language of the word problems: people, nouns with both numbers, and seeded choices.

A template is a function from `Draw` to `Problem`. It writes its own sentences; what lives here keeps them
grammatical (one apple, two apples) and keeps all randomness in one generator that the caller seeds.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, its worked steps (one sentence each, arithmetic as `a * b = c`) and its answer."""

    question: str
    steps: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    he: str
    him: str
    his: str


@dataclass(frozen=True, slots=True)
class Noun:
    one: str
    many: str

    def of(self, number: int) -> str:
        """The form that follows `number`: apple after 1, apples otherwise."""
        return self.one if number == 1 else self.many

    def count(self, number: int) -> str:
        """`1 apple`, `4 apples`."""
        return f"{number} {self.of(number)}"

    @property
    def a(self) -> str:
        """`an apple`, `a pear`."""
        return f"{'an' if self.one[0] in 'aeiou' else 'a'} {self.one}"


def noun(one: str, many: str | None = None) -> Noun:
    return Noun(one, many or f"{one}s")


def are(number: int) -> str:
    """The verb after `there`: is after 1, are otherwise."""
    return "is" if number == 1 else "are"


def _people(names: str, he: str, him: str, his: str) -> tuple[Person, ...]:
    return tuple(Person(name, he, him, his) for name in names.split())


PEOPLE = _people(
    "Ada Amina Beth Chloe Elena Grace Hannah Ines Julia Keiko Lena Maya Nadia Olga Priya Rosa Sofia Tara Wanda Zoe",
    "she",
    "her",
    "her",
) + _people(
    "Adam Ben Carlos David Emil Felix George Hugo Ivan Jamal Kenji Leo Marco Noah Omar Paul Ravi Sam Tom Victor",
    "he",
    "him",
    "his",
)
FRUITS = (
    noun("apple"),
    noun("pear"),
    noun("peach", "peaches"),
    noun("orange"),
    noun("plum"),
    noun("lemon"),
    noun("mango", "mangoes"),
)
BAKED = (noun("cookie"), noun("muffin"), noun("cupcake"), noun("pretzel"), noun("doughnut"), noun("bread roll"))
COLLECTED = (
    noun("marble"),
    noun("sticker"),
    noun("trading card"),
    noun("seashell"),
    noun("stamp"),
    noun("postcard"),
    noun("coin"),
    noun("button"),
)
WARES = (
    noun("notebook"),
    noun("mug"),
    noun("candle"),
    noun("poster"),
    noun("puzzle"),
    noun("scarf", "scarves"),
    noun("plant"),
    noun("kite"),
    noun("paintbrush", "paintbrushes"),
    noun("water bottle"),
)
TREASURES = (
    noun("bicycle"),
    noun("skateboard"),
    noun("guitar"),
    noun("camera"),
    noun("telescope"),
    noun("tent"),
    noun("keyboard"),
    noun("pair of skis", "pairs of skis"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Draw:
    """Seeded choices for one template."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def number(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return self._rng.randint(low, high)

    def one_of(self, choices: Sequence[T]) -> T:
        return self._rng.choice(choices)

    def some_of(self, choices: Sequence[T], number: int) -> list[T]:
        """`number` different choices, in random order."""
        return self._rng.sample(choices, number)

    def person(self) -> Person:
        return self.one_of(PEOPLE)

    def people(self, number: int) -> list[Person]:
        return self.some_of(PEOPLE, number)


Template = Callable[[Draw], Problem]
