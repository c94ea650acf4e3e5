"""Worked examples in front of a question, in the layouts in which the benchmarks are usually given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gkd_dist.config.evaluation import ShotsConfig
from gkd_dist.data.sources import Record, records
from gkd_dist.errors import DataError
from gkd_dist.evaluation.exact_match import final_answer

_LETTERS = "ABCDEFGHIJ"
_STEP_BY_STEP = "\nA: Let's think step by step.\n"


@dataclass(frozen=True, slots=True)
class Shots:
    prefix: str
    """What stands before the question."""
    template: str
    """What the question becomes; `{prompt}` is its text."""
    stops: tuple[str, ...] = ()
    """How a next example would begin."""


NO_SHOTS = Shots("", "{prompt}")


def gsm8k_shots(config: ShotsConfig) -> Shots:
    """`Question: ... Answer: ...` for each row of a file, or a text file as it is.

    Raises:
        DataError: no such file, or rows without `question` and `answer`.
    """
    if config.path is None or config.num == 0:
        return NO_SHOTS
    if config.path.endswith(".txt"):
        if config.num is not None:
            raise DataError("shots.num: a text file is put in front whole; remove it")
        return Shots(f"{_text(config.path).strip()}\n\n", "Question: {prompt}\n", ("\n\nQuestion:",))
    examples = []
    for place, record in records(config.path, "train", "shots.path"):
        if len(examples) == config.num:
            break
        question, answer = (_cell(record, column, place) for column in ("question", "answer"))
        examples.append(f"Question: {question}\nAnswer: {answer}\n\n")
    return Shots("".join(examples), "Question: {prompt}\nAnswer:", ("\n\nQuestion:",))


def bbh_shots(config: ShotsConfig, file: Path, subset: str) -> Shots:
    """The task's description and the first examples of its chain-of-thought prompt; of style `direct` with their final
    answers alone.

    Raises:
        DataError: the prompt is not there, or an example that has to be shortened has no answer.
    """
    path = Path(config.path) / f"{subset}.txt" if config.path else file.parent / "cot-prompts" / f"{subset}.txt"
    description, *examples = _text(str(path)).rpartition("-----\n")[2].strip().split("\n\nQ: ")
    examples = examples[: config.num]
    if config.style == "direct":
        examples = [_direct(example, path) for example in examples]
    prefix = "".join(f"{part}\n\n" for part in [description, *(f"Q: {example}" for example in examples)])
    if config.style == "direct":
        return Shots(prefix, "Q: {prompt}\nA:", ("\n", " Q:"))
    return Shots(prefix, f"Q: {{prompt}}{_STEP_BY_STEP}", ("\n\nQ:",))


def _direct(example: str, path: Path) -> str:
    """Question and final answer of a worked example."""
    question, begins, thoughts = example.partition(_STEP_BY_STEP)
    if not begins:
        question, begins, thoughts = example.rpartition("\nA:")
    answer = final_answer(thoughts)
    if not begins or not answer:
        raise DataError(f"shots.style: {path} has an example without an answer behind `A:`; give prompts with answers")
    return f"{question}\nA: {answer}"


def mmlu_prefix(examples: Mapping[str, Sequence[tuple[str, Record]]], subject: str, place: str, num: int | None) -> str:
    """The header of the subject and its first examples with their answers.

    Args:
        examples: place and record of each, by subject.
        place: of the question, for messages.
        num: so many; None means all there are, at least one.

    Raises:
        DataError: there are not so many.
    """
    own = list(examples.get(subject, ()))[:num]
    if len(own) < (1 if num is None else num):
        raise DataError(f"{place}: {len(own)} examples of {subject} for shots; lower shots.num")
    texts = [f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"]
    for where, record in own:
        text, options, answer = mmlu_question(record, where)
        texts.append(f"{text}{options[answer]}\n\n")
    return "".join(texts)


def mmlu_question(record: Record, place: str) -> tuple[str, tuple[str, ...], int]:
    """(the question up to `Answer:`, what may follow it, the number of the right one).

    Raises:
        DataError: `question`, `choices` or `answer` is missing or of a wrong type.
    """
    question, choices, answer = record.get("question"), record.get("choices"), record.get("answer")
    if isinstance(answer, str) and len(answer) == 1 and answer in _LETTERS:
        answer = _LETTERS.index(answer)
    if (
        not isinstance(question, str)
        or not isinstance(choices, list)
        or not 2 <= len(choices) <= len(_LETTERS)
        or type(answer) is not int
        or not 0 <= answer < len(choices)
    ):
        raise DataError(f"{place}: needs question (text), choices (2 to 10) and answer (a number from 0, or a letter)")
    letters = _LETTERS[: len(choices)]
    lines = [f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)]
    return "\n".join([question.strip(), *lines, "Answer:"]), tuple(f" {letter}" for letter in letters), answer


def _cell(record: Record, column: str, place: str) -> Any:
    if not isinstance(record.get(column), str):
        raise DataError(f"{place}: examples need the column {column!r} with text")
    return record[column]


def _text(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"shots.path: {path} cannot be read: {error}") from error
