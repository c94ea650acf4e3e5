"""The Dockerfile, taken apart: instructions by stage."""

import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DOCKER = REPOSITORY / "docker"
COMMON = "base"


def instructions() -> Iterator[tuple[str, str]]:
    """Word and arguments of each instruction, with its continued lines."""
    lines = [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield word, " ".join(rest.split())


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage; those of `base` stand before the others'."""
    found: dict[str, list[tuple[str, str]]] = {}
    stage = ""
    for word, rest in instructions():
        if word == "FROM":
            source, stage = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
            found[stage] = list(found.get(source, ()))
        elif stage:
            found[stage].append((word, rest))
    return found
