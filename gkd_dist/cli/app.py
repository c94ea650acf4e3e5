"""The `gkd` command with all its commands, in the order of its help (floor F5)."""

from typing import Annotated

import typer

from gkd_dist import __version__
from gkd_dist.cli import experiment, job, machine, model, plan, recipe, run

app = typer.Typer(
    name="gkd",
    help="On-policy distillation of language models (GKD) as a distributed actor/learner system.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"gkd {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


app.command()(run.run)
app.command()(recipe.validate)
app.command()(recipe.rows)
app.command()(recipe.recipes)
app.command()(plan.plan)
app.command()(model.prune)
app.command("eval")(model.evaluate)
app.command()(model.generate)
app.command()(run.scale)
app.command(context_settings={"ignore_unknown_options": True})(run.explain)  # -1 is a number, and out of range
app.command()(experiment.experiment)
app.command()(run.report)
app.command()(job.submit)
app.command()(job.status)
app.command()(job.logs)
app.command()(job.stop)
app.command("list")(job.list_all)
app.command()(machine.doctor)
