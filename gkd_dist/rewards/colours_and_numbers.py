"""Whether a German translation says the colours and numbers of its English source, and no others.

A reward without any model, for what a caption's translation must not get wrong: reward.type=python
reward.function=gkd_dist.rewards.colours_and_numbers:agreement.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Said:
    """What a text says, by the names of `_COLOURS` and by numbers as digits."""

    surely: frozenset[str]
    perhaps: frozenset[str]
    """More that its words may mean: they excuse the other text, and ask nothing of it."""


def agreement(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """For each German completion the F1, from 0 to 1, of what it says against its English prompt; a reward function.

    What both say counts as right, in which one of the two may be vague (`a couple` and `zwei`, `tricycle` and
    `Dreirad`); what one surely says and the other does not even vaguely is wrong. 1 where neither says anything.
    """
    return [_f1(english(prompt), german(text)) for prompt, text in zip(prompts, completions, strict=True)]


def _f1(source: _Said, text: _Said) -> float:
    right = (source.surely & (text.surely | text.perhaps)) | (text.surely & source.perhaps)
    wrong = (source.surely | text.surely) - right
    return 2 * len(right) / (2 * len(right) + len(wrong)) if right or wrong else 1.0


def english(text: str) -> _Said:
    """What an English text says."""
    surely, perhaps = _digits(text), set[str]()
    for word in re.findall(r"[a-z]+", text.lower()):
        surely |= {_ENGLISH[word]} if word in _ENGLISH else set()
        perhaps |= _ENGLISH_PERHAPS.get(word, frozenset())
    return _Said(frozenset(surely), frozenset(perhaps))


def german(text: str) -> _Said:
    """What a German text says: whole words, inflected, shaded (`hellblau`) and joined (`rotbraun`, `rosafarben`) ones
    surely, longer words that begin so (`Blauhelm`, `Dreirad`) perhaps."""
    surely, perhaps = _digits(text), set[str]()
    for word in re.findall(r"[a-z\u00e4\u00f6\u00fc\u00df]+", text.lower().replace("weiss", "wei\u00df")):
        if word in _GERMAN_NUMBERS:
            surely.add(_GERMAN_NUMBERS[word])
        elif _COLOUR_WORD.fullmatch(word):
            surely |= {_GERMAN_COLOURS[stem] for stem in _STEM.findall(word)}
        else:
            perhaps |= _beginning(word)
        perhaps |= _GERMAN_PERHAPS.get(word, frozenset())
    return _Said(frozenset(surely), frozenset(perhaps))


def _digits(text: str) -> set[str]:
    """Without leading zeros, as text: Python reads no number of thousands of digits."""
    return {digits.lstrip("0") or "0" for digits in re.findall(r"[0-9]+", text)}


def _beginning(word: str) -> set[str]:
    return {name for stem, name in _BEGINNINGS.items() if word.startswith(stem)}


_COLOURS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "red": (("red", "redhead", "redheaded", "maroon", "burgundy"), ("rot",)),
    "blue": (("blue",), ("blau",)),
    "green": (("green",), ("gr\u00fcn",)),
    "yellow": (("yellow",), ("gelb",)),
    "black": (("black",), ("schwarz",)),
    "white": (("white",), ("wei\u00df",)),
    "brown": (("brown",), ("braun",)),
    "orange": (("orange",), ("orange", "orang")),
    "pink": (("pink",), ("rosarot", "rosa", "pink")),
    "purple": (("purple", "violet", "lavender", "lilac"), ("lila", "violett", "purpurrot", "purpur", "lavendel")),
    "grey": (("gray", "grey"), ("grau",)),
    "silver": (("silver",), ("silbern", "silber")),
    "gold": (("gold", "golden"), ("golden", "gold")),
    "beige": (("beige",), ("beige", "beig")),
    "blond": (("blond", "blonde", "blondes"), ("blond", "blondine")),
    "turquoise": (("turquoise", "teal"), ("t\u00fcrkis",)),
}
"""Name: words of the English, stems of the German; the longer stem before one that it begins with."""
_GERMAN_COLOURS = {stem: name for name, (_, stems) in _COLOURS.items() for stem in stems}
_NUMBERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "2": ("two", ("zwei", "zweier", "zweien")),
    "3": ("three", ("drei", "dreier", "dreien")),
    "4": ("four", ("vier", "vierer", "vieren")),
    "5": ("five", ("f\u00fcnf",)),
    "6": ("six", ("sechs",)),
    "7": ("seven", ("sieben",)),
    "8": ("eight", ("acht",)),
    "9": ("nine", ("neun",)),
    "10": ("ten", ("zehn",)),
    "11": ("eleven", ("elf",)),
    "12": ("twelve", ("zw\u00f6lf",)),
}
"""From two on: `ein` is an article, and German does not tell whether `one` was meant."""
_GERMAN_NUMBERS = {word: digits for digits, (_, words) in _NUMBERS.items() for word in words}
_ENGLISH = {
    **{word: name for name, (words, _) in _COLOURS.items() for word in words},
    **{word: digits for digits, (word, _) in _NUMBERS.items()},
}
_ENGLISH_PERHAPS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("couple", "pair", "both", "twin", "twins", "second"), frozenset({"2"})),
    "dozen": frozenset({"12"}),
    "tricycle": frozenset({"3"}),
    "tan": frozenset({"brown", "beige"}),
    "khaki": frozenset({"brown", "beige", "green"}),
    "brunette": frozenset({"brown"}),
    "navy": frozenset({"blue"}),
    "teal": frozenset({"blue", "green"}),
    "maroon": frozenset({"brown"}),
    "lime": frozenset({"green"}),
    "grass": frozenset({"green"}),
    "cream": frozenset({"white", "beige"}),
    "fair": frozenset({"blond"}),
    "oranges": frozenset({"orange"}),  # the fruit, which is one word with the colour in German
}
_GERMAN_PERHAPS: Mapping[str, frozenset[str]] = {
    "paar": frozenset({"2"}),
    **dict.fromkeys(("beide", "beiden", "beider", "zwillinge"), frozenset({"2"})),
    "dutzend": frozenset({"12"}),
    **dict.fromkeys(("kastanienbraun", "kastanienbraunen", "kastanienbraunes"), frozenset({"red"})),
}
_STEM = re.compile("|".join(sorted(_GERMAN_COLOURS, key=len, reverse=True)))
_COLOUR_WORD = re.compile(
    rf"(?:dunkel|hell|mittel|tief|zart|sanft|blass|knall|grell|leucht|neon|marine|himmel|baby|wein|burgunder|olive?|gras"
    rf"|lind|zitronen|kastanien|feuer|scharlach|schnee)?"
    rf"(?:{_STEM.pattern}){{1,3}}(?:farben|farbig|haarig|lich)?(?:e|en|er|es|em|ne|nen|ner|nes|nem)?"
)
"""At most three stems (`schwarzrotgold`): `rosarot` is one and also two, and without an end the ways to read
`rosarotrosarot...` would double with each."""
_BEGINNINGS = {
    "dunkelh\u00e4utig": "black",
    "hellh\u00e4utig": "white",
    "bluejeans": "blue",
    **{stem: name for stem, name in _GERMAN_COLOURS.items() if stem not in ("orang", "beig")},
    **{word: digits for word, digits in _GERMAN_NUMBERS.items() if digits not in ("8", "11")},
}
"""Not those of `acht` and `elf`: `achten`, `elfenbein`."""
