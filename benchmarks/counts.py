"""Numbers and files that the scripts here are given."""

import argparse
from pathlib import Path


def positive(text: str) -> int:
    """At least one, as a type of argparse."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return number


def writable(text: str) -> Path:
    """A file whose folder is there, as a type of argparse."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is no folder; make it, or choose another one")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; give a file")
    return path
