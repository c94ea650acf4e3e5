"""What a person sees around a run: elapsed time, tables, and texts side by side (floor F2)."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_UNLIMITED = 1 << 16
"""Columns: wider than any table."""


class Narrator:
    """Prints one line per event, with the seconds since the start.

    It goes to what `sys.stdout` is at that moment: while a status line is shown, rich has put a stream there that
    prints above it.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def __call__(self, text: str) -> None:
        print(f"[{self.elapsed_s:6.1f} s] {text}", flush=True)


@contextlib.contextmanager
def aside(wanted: bool) -> Iterator[None]:
    """Inside, what is told goes to the standard error stream where the standard output is for data."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


def print_table(stream: TextIO, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column names and whose other columns are numbers.

    Nothing is cut: other programs, and terminals that are too narrow, get lines as long as the table is wide.
    """
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = _console(stream)
    unlimited = console.options.update(max_width=_UNLIMITED)
    console.width = max(console.width, Measurement.get(console, unlimited, table).maximum)
    console.print(table, markup=False)


def print_side_by_side(stream: TextIO, prompt: str, texts: dict[str, str]) -> None:
    """Several answers to one prompt, each in a column of its own."""
    table = Table(title=prompt, title_justify="left", show_lines=False, expand=True)
    for name in texts:
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*texts.values())
    _console(stream).print(table, markup=False)


def _console(stream: TextIO) -> Console:
    return Console(file=stream, markup=False, highlight=False, emoji=False)
