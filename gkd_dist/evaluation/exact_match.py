"""Exact match of short answers behind a chain of thought, as BIG-Bench Hard is graded."""

_MARKER = "answer is"


def final_answer(text: str) -> str:
    """What follows the last `answer is`, up to the end of its line, without a full stop; else the last line.

    Text behind a blank line followed by `Q:` is the model's next question, not its answer, and is cut first.

    Example:
        final_answer("2 < 3. So the answer is (B).\\n\\nQ: Next")  # "(B)"
    """
    own = text.partition("\n\nQ:")[0].strip()
    _, mark, after = own.rpartition(_MARKER)
    answer = after.lstrip(": ").partition("\n")[0] if mark else own.rpartition("\n")[2]
    return " ".join(answer.strip().removesuffix(".").split())


def matches(text: str, reference: str) -> bool:
    """Whether the final answer is the reference, letter by letter but for white space at its ends."""
    return final_answer(text) == " ".join(reference.split())
