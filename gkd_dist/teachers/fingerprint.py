"""What a teacher's answers depend on, as one digest: its weights, how it is run, and the code that runs it."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import xxhash

from gkd_dist.types import Trajectory

_WHOLE_BYTES = 1 << 30
"""A weight file up to this size is hashed whole, a larger one by this many bytes of evenly spaced blocks."""
_BLOCK_BYTES = 1 << 20


def model_fingerprint(model: Path, facts: Mapping[str, object]) -> str:
    """A digest of the model's folder and of whatever else its answers depend on.

    Args:
        facts: by name, each with a `repr` that tells different values apart (dtype, version of the engine).
    """
    digest = xxhash.xxh3_128()
    for name, value in sorted(facts.items()):
        digest.update(f"{name}={value!r};".encode())
    for file in sorted([model / "config.json", *model.glob("*.safetensors")]):
        digest.update(f"{file.name}:{file.stat().st_size};".encode())
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()


def sequences_key(fingerprint: str, sequences: Sequence[Trajectory]) -> str:
    """A digest of a teacher and of the tokens it is asked about: 32 hex digits."""
    digest = xxhash.xxh3_128(fingerprint.encode())
    for sequence in sequences:
        for ids in (sequence.prompt_ids, sequence.completion_ids):
            digest.update(f"{ids.size}:".encode())
            digest.update(ids.tobytes())
    return digest.hexdigest()


@cache
def code_digest() -> str:
    """Of this package's sources: answers made by other code are not taken for its own."""
    digest = xxhash.xxh3_128()
    root = Path(__file__).parents[1]
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)};".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    """The file's content, or an even choice of it: the first block holds the header of a weight file."""
    size = file.stat().st_size
    step = max(_BLOCK_BYTES, -(-size // (_WHOLE_BYTES // _BLOCK_BYTES)))
    with file.open("rb") as stream:
        for start in range(0, size, step):
            stream.seek(start)
            yield stream.read(_BLOCK_BYTES)
