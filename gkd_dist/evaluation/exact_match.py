"""Exact match of short answers behind a chain of thought, as BIG-Bench Hard is graded."""

import re

_MARKER = re.compile(r"answer is[\s:]*", re.IGNORECASE)


def final_answer(text: str) -> str:
    """The line behind the last `answer is`, in any case, without a full stop; else the last line.

    Text behind a blank line followed by `Q:` is the model's next question, not its answer, and is cut first.

    Example:
        final_answer("2 < 3. So the answer is (B).\\n\\nQ: Next")  # "(B)"
    """
    own = text.partition("\n\nQ:")[0].strip()
    marks = list(_MARKER.finditer(own))
    answer = own[marks[-1].end() :].partition("\n")[0] if marks else own.rpartition("\n")[2]
    return " ".join(answer.strip().removesuffix(".").split())


def matches(text: str, reference: str) -> bool:
    """Whether the final answer is the reference, letter by letter but for white space at its ends."""
    return final_answer(text) == " ".join(reference.split())
