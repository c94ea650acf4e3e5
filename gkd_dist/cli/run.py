"""Commands about runs: start one, scale it, explain a step, report (floor F5)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gkd_dist.cli.arguments import AsJson, OutputDir, Overrides, Recipe, Run
from gkd_dist.cli.configuration import load


def run(recipe: Recipe, overrides: Overrides = None) -> None:
    """Distil: run a recipe to its end."""
    config = load(recipe, overrides)
    from gkd_dist.distillation import run as run_ring

    raise typer.Exit(run_ring(config))


def scale(
    run: Run,
    samplers: Annotated[
        int | None, typer.Option("--samplers", metavar="N", help="So many samplers.", show_default=False)
    ] = None,
    teachers: Annotated[
        int | None,
        typer.Option("--teachers", metavar="N", help="So many replicas of each teacher.", show_default=False),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option("--teacher", metavar="NAME=N", help="Of one teacher; may be repeated.", show_default=False),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until they serve.")] = True,
    timeout: Annotated[float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Of the waiting.")] = 600,
    output_dir: OutputDir = Path("runs"),
) -> None:
    """Change the number of samplers and teachers of a running job."""
    by_name = _numbers_by_name(teacher or [])
    if by_name and teachers is not None:
        raise typer.BadParameter(
            "is for each teacher, --teacher for single ones; give one of them", param_hint="--teachers"
        )
    from gkd_dist.scaling import scale as scale_run

    number = by_name or teachers
    raise typer.Exit(
        scale_run(run, output_dir, samplers=samplers, teachers=number, timeout_s=timeout if wait else None)
    )


def explain(
    run: Run,
    step: Annotated[int, typer.Argument(metavar="STEP", min=0, help="Train step, counted from 0.")],
    as_json: AsJson = False,
    output_dir: OutputDir = Path("runs"),
) -> None:
    """List what a train step was trained on."""
    from gkd_dist.inspection import explain as explain_step

    raise typer.Exit(explain_step(run, output_dir, step, as_json=as_json))


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run directories, or names of some; several are compared.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: report.html of the first run.")
    ] = None,
    output_dir: OutputDir = Path("runs"),
) -> None:
    """Write one HTML file about runs: curves, events, samples, settings."""
    from gkd_dist.reports.command import report as write_report

    raise typer.Exit(write_report(runs, output_dir, output))


def _numbers_by_name(texts: Sequence[str]) -> dict[str, int]:
    """`a=2`, `b=1` as a mapping."""
    numbers = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal():
            raise typer.BadParameter(f"{text!r} is not NAME=N, such as math=2", param_hint="--teacher")
        numbers[name] = int(number)
    return numbers
