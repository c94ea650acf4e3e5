"""Who wrote a completion: all that decides it beside its prompt."""

from pathlib import Path
from typing import Any

from gkd_dist import __version__
from gkd_dist.config.evaluation import EvalConfig

_DECIDES_NO_TEXT: dict[str, Any] = {
    **dict.fromkeys(
        ("output", "teacher", "reward", "rouge_stemmer", "bleu_tokenize", "num_resamples", "confidence"), True
    ),
    "decoding": {"batch_size": True},
}
"""Keys of an evaluation that change no completion: what was written with others is gone on with."""


def author(config: EvalConfig, model: Path) -> dict[str, Any]:
    """As JSON has it.

    Args:
        model: local folder; its files count by name, size and time.
    """
    files = sorted(path for path in model.iterdir() if path.is_file())
    return {
        "settings": config.model_dump(mode="json", exclude=_DECIDES_NO_TEXT),
        "version": __version__,
        "model": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files],
    }
