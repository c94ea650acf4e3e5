"""Exact match of short answers, alone or behind a chain of thought, as BIG-Bench Hard is graded."""

import re

_MARKER = re.compile(r"answer is[\s:]*", re.IGNORECASE)
_NEXT_QUESTION = re.compile(r"(?:^|\s)Q:")
_SENTENCE_END = re.compile(r"\.\s")


def final_answer(text: str) -> str:
    """The sentence behind the last `answer is`, in any case, without its full stop; else the last line.

    The model's next question is not its answer, and is cut first: text behind a blank line followed by `Q:`, and, since
    not every tokenizer knows line breaks, any `Q:` behind an `answer is`.

    Example:
        final_answer("2 < 3. So the answer is (B). Q: Next")  # "(B)"
    """
    own = text.partition("\n\nQ:")[0].strip()
    mark = _MARKER.search(own)
    if mark is None:
        answer = own.rpartition("\n")[2]
    else:
        behind = own[mark.end() :]
        question = _NEXT_QUESTION.search(behind)
        last = _MARKER.split(behind[: question.start()] if question else behind)[-1]
        answer = _SENTENCE_END.split(last.partition("\n")[0], maxsplit=1)[0]
    return " ".join(answer.strip().removesuffix(".").split())


def matches(text: str, reference: str) -> bool:
    """Whether the final answer is the reference, letter by letter but for white space at its ends."""
    return final_answer(text) == " ".join(reference.split())
