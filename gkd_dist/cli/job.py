"""Commands about jobs and runs from outside of them: submit, look, follow, stop (floor F5)."""

from pathlib import Path
from typing import Annotated

import typer

from gkd_dist.cli.arguments import SUBJECT_HELP, Address, AsJson, OutputDir, Overrides, Recipe, Subject

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Print what it says until it ends.")]
RUNS = Path("runs")


def submit(
    recipe: Recipe,
    overrides: Overrides = None,
    address: Address = None,
    follow: Follow = False,
    infra: Annotated[
        Path | None,
        typer.Option("--infra", metavar="FILE", help="Where the job runs and on how much.", show_default=False),
    ] = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            "--working-dir",
            metavar="FOLDER",
            help="Is sent with the job, which runs in it; relative paths start there.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Start a run as a job of a Ray cluster."""
    from gkd_dist.operations.submission import submit as submit_job

    raise typer.Exit(
        submit_job(
            recipe, overrides or [], address=address, infra_path=infra, working_dir=working_dir, is_followed=follow
        )
    )


def status(
    run: Subject,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it live until it ends.")] = False,
    address: Address = None,
    output_dir: OutputDir = RUNS,
) -> None:
    """Show how a run is: step, replicas, queue, last checkpoint."""
    from gkd_dist.operations.subject import find_subject

    subject = find_subject(run, output_dir, address)
    if watch:
        from gkd_dist.operations.watching import watch as watch_run

        raise typer.Exit(watch_run(subject, as_json=as_json))
    from gkd_dist.inspection import status as show_status

    raise typer.Exit(show_status(subject, as_json=as_json))


def logs(run: Subject, follow: Follow = False, address: Address = None, output_dir: OutputDir = RUNS) -> None:
    """Print what a job has said; of a run directory, its steps."""
    from gkd_dist.operations.logs import logs as print_logs
    from gkd_dist.operations.subject import find_subject

    raise typer.Exit(print_logs(find_subject(run, output_dir, address), is_followed=follow))


def stop(
    run: Annotated[str, typer.Argument(metavar="RUN", help=SUBJECT_HELP, show_default=False)] = "",
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Every run below --output-dir that a process of this host works on; with --address every job of gkd "
            "of that cluster instead, on whichever node.",
        ),
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Of the waiting.")] = 600,
    as_json: AsJson = False,
    address: Address = None,
    output_dir: OutputDir = RUNS,
) -> None:
    """Stop a run after its step, with a checkpoint; the same command goes on with it."""
    if every == bool(run):
        raise typer.BadParameter("name a run, or give --all; one of the two", param_hint="RUN")
    if every:
        from gkd_dist.operations.shutdown import stop_here, stop_jobs

        if address is not None:
            raise typer.Exit(stop_jobs(address, timeout_s=timeout, as_json=as_json))
        raise typer.Exit(stop_here(output_dir, timeout_s=timeout, as_json=as_json))
    from gkd_dist.operations.stopping import stop as stop_run
    from gkd_dist.operations.subject import find_subject

    raise typer.Exit(stop_run(find_subject(run, output_dir, address), timeout_s=timeout, as_json=as_json))


def list_all(as_json: AsJson = False, address: Address = None, output_dir: OutputDir = RUNS) -> None:
    """List the runs below --output-dir, or the jobs of a cluster."""
    from gkd_dist.operations.listing import list_runs

    raise typer.Exit(list_runs(output_dir, address, as_json=as_json))
