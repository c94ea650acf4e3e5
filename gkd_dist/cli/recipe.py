"""Commands about recipes and what they name: check, print rows, list (floor F5)."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gkd_dist.cli.arguments import Overrides, Recipe
from gkd_dist.cli.configuration import load


def validate(
    recipe: Recipe,
    overrides: Overrides = None,
    config_only: Annotated[bool, typer.Option("--config-only", help="Open, call and ask nothing.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the resolved configuration instead of `ok`.")] = False,
) -> None:
    """Check configuration, data and tokenizers.

    No model is loaded. A reward function of yours is called once, and the servers of teachers are asked.
    """
    from gkd_dist.config.load import dump_run_config

    config = load(recipe, overrides, config_only=config_only)
    if not config_only:
        from gkd_dist.cli.preflight import preflight

        for line in preflight(config):
            print(line, file=sys.stderr if show else sys.stdout)
    print(dump_run_config(config) if show else "ok", end="" if show else "\n")


def rows(
    recipe: Recipe,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="JSON lines; otherwise printed.", show_default=False)
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            "--held-out",
            metavar="FILE",
            help="The first data.num_held_out rows go here, and no row with a prompt of theirs elsewhere.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the rows of a recipe's data: prompts as models see them (but for chat templates), and completions."""
    config = load(recipe, overrides, config_only=True)  # no model is needed
    from gkd_dist.cli.rows import rows as write_rows

    raise typer.Exit(write_rows(config, output, held_out))


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print this one.", show_default=False)] = None,
) -> None:
    """List the packaged recipes, or print one."""
    from gkd_dist.config.recipes import recipe_names, recipe_summary, recipe_text

    if name is not None:
        print(recipe_text(name), end="")
        return
    names = recipe_names()
    width = max(len(each) for each in names)
    for each in names:
        print(f"{each:{width}}  {recipe_summary(each)}")
