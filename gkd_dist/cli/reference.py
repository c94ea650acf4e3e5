"""The reference page of the command line, docs/command-line.md, made from the commands themselves (floor F5).

python -m gkd_dist.cli.reference [FOLDER]    writes it, and docs/configuration.md, into a checkout
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from gkd_dist.cli.app import app
from gkd_dist.cli.exit_codes import EXIT_CODES
from gkd_dist.config.reference import reference as configuration

HEAD = """# Command line

Generated from `gkd_dist/cli` by `make reference`. `gkd COMMAND --help` says the same; `gkd --version` prints the
version. What KEY=VALUE may be: [configuration.md](configuration.md). Results go to the standard output, problems to the
standard error stream.

| command | does |
| --- | --- |
"""
EXITS = """## Exit codes

Of every command.

| code | means | the same command again |
| --- | --- | --- |
"""


def reference() -> str:
    """docs/command-line.md as it should be."""
    group = typer.main.get_command(app)
    commands = group.commands.items()
    listed = "".join(f"| [`gkd {name}`](#gkd-{name}) | {_first_line(command.help)} |\n" for name, command in commands)
    described = "\n".join(line for name, command in commands for line in _described(name, command))
    codes = "".join(f"| {code} | {means} | {again} |\n" for code, (means, again) in EXIT_CODES.items())
    return f"{HEAD}{listed}\n{described}\n{EXITS}{codes}"


def _described(name: str, command: typer.core.TyperCommand) -> Iterator[str]:
    context = typer.Context(command, info_name=f"gkd {name}")
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield from (f"## `gkd {name}`", "", *(command.help or "").splitlines(), "")
    yield from (f"    {' '.join(usage.split())}", "")
    yield from ("| argument or option | means |", "| --- | --- |")
    for parameter in command.params:
        names, text = parameter.get_help_record(context)
        if not parameter.opts[0].startswith("-"):
            names = parameter.metavar or names
        yield f"| `{names.replace('|', ' or ')}` | {text.replace('|', ' or ')} |"
    yield ""


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def pages() -> dict[str, str]:
    """The generated pages of the command line by their paths in the repository."""
    return {"docs/command-line.md": reference(), "docs/configuration.md": configuration()}


if __name__ == "__main__":
    for name, text in pages().items():
        Path(*sys.argv[1:2], name).write_text(text, encoding="utf-8")
