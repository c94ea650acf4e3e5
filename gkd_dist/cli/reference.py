"""The reference page of the command line, docs/command-line.md, made from the commands themselves (floor F5).

python -m gkd_dist.cli.reference [FOLDER]    writes it, and those of keys and recipes, into a checkout
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from gkd_dist.cli.app import app
from gkd_dist.cli.exit_codes import EXIT_CODES
from gkd_dist.config.recipes import recipe_names, recipe_summary
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
RECIPES = """# Recipes

Generated from the first lines of the files in `gkd_dist/recipes` by `make reference`. `gkd recipes NAME` prints one;
`A+B` is B over A. What those of the paper are, and how they are put together: [paper.md](paper.md).

| recipe | is |
| --- | --- |
"""


def reference() -> str:
    """docs/command-line.md as it should be."""
    found = typer.main.get_group(app).commands.items()
    commands = [(name, command) for name, command in found if isinstance(command, typer.core.TyperCommand)]
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
        record = parameter.get_help_record(context)
        if record is None:  # hidden
            continue
        names, text = record
        if not parameter.opts[0].startswith("-"):
            names = parameter.metavar or names
        yield f"| `{names.replace('|', ' or ')}` | {text.replace('|', ' or ')} |"
    yield ""


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def recipes() -> str:
    """docs/recipes.md as it should be."""
    lines = [
        f"| [`{name}`](../gkd_dist/recipes/{name}.yaml) | {recipe_summary(name).replace('|', ' or ')} |\n"
        for name in recipe_names()
    ]
    return RECIPES + "".join(lines)


def pages() -> dict[str, str]:
    """The pages by their paths in the repository."""
    return {
        "docs/command-line.md": reference(),
        "docs/configuration.md": configuration(),
        "docs/recipes.md": recipes(),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        Path(*sys.argv[1:2], name).write_text(text, encoding="utf-8")
