"""The command about the figures and tables of the paper (floor F5)."""

from pathlib import Path
from typing import Annotated

import typer

from gkd_dist.cli.arguments import Overrides


def experiment(
    name: Annotated[
        str | None,
        typer.Argument(metavar="FIGURE", help="Name of an experiment, or path of a YAML file.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the experiments and their scales.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs, their cost, and what is missing.")
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Only tables and plots of what is finished.")] = False,
    scale: Annotated[
        str | None,
        typer.Option(
            "--scale", metavar="SCALE", help="One that --list shows: small, smoke, paper.", show_default=False
        ),
    ] = None,
    output_dir: Annotated[
        Path, typer.Option("--output-dir", metavar="FOLDER", help="Where the folders of experiments are.")
    ] = Path("experiments"),
    address: Annotated[
        str, typer.Option("--address", metavar="ADDRESS", help="Ray cluster: local, auto, or host:port.")
    ] = "local",
    num_cpus: Annotated[
        float | None, typer.Option("--num-cpus", min=0, metavar="N", help="Use at most so many.", show_default=False)
    ] = None,
    replace_changed: Annotated[
        bool, typer.Option("--replace-changed", help="Put runs of another configuration aside and do them again.")
    ] = False,
) -> None:
    """Do the runs behind a figure or table of the paper, with tables and plots."""
    from gkd_dist import experimentation as door
    from gkd_dist.experiments.request import Request

    if list_all:
        raise typer.Exit(door.list_experiments())
    if name is None:
        raise typer.BadParameter("is missing; `gkd experiment --list` shows them", param_hint="FIGURE")
    request = Request(name, overrides or [], scale, output_dir, address, num_cpus, replace_changed)
    act = door.dry_run if dry_run else door.report_only if report else door.run_experiment
    raise typer.Exit(act(request))
