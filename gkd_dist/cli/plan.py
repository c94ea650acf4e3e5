"""The command that predicts how fast a recipe will be (floor F5)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gkd_dist.cli.arguments import AsJson, OutputDir, Overrides, Recipe
from gkd_dist.cli.configuration import load
from gkd_dist.errors import ConfigError

if TYPE_CHECKING:
    from gkd_dist.config.run import RunConfig

Size = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Instead of reading the model: 1.7B, 30B-A3B.", show_default=False)
]
Tokens = Annotated[
    float | None, typer.Option(min=0, metavar="N", help="Mean, instead of looking at the data.", show_default=False)
]


def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, metavar="N", help="Find the best split of so many devices.", show_default=False),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="NAME", help="Such as h100, or a YAML file of one.", show_default=False),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="S,T,L", help="Samplers, teachers and learner ranks.", show_default=False),
    ] = None,
    student_params: Size = None,
    teacher_params: Size = None,
    prompt_tokens: Tokens = None,
    completion_tokens: Tokens = None,
    fixed_tokens: Tokens = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="RUN",
            help="Learn rates from this run directory, or the name of one below --output-dir, or `latest`.",
            show_default=False,
        ),
    ] = None,
    output_dir: OutputDir = Path("runs"),
    quantile: Annotated[
        float | None,
        typer.Option(
            "--quantile",
            min=0.01,
            max=1.0,
            metavar="Q",
            help="Of the run's steps, 0.5 where none is given; lower on busy machines.",
            show_default=False,
        ),
    ] = None,
    save_device: Annotated[
        Path | None,
        typer.Option("--save-device", metavar="FILE", help="Write the calibrated device here.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict speed, bytes, memory and bottleneck of a recipe, and how to split GPUs among the roles.

    Nothing is started and no weights are loaded. Without --gpus and --split the recipe's own numbers of replicas count.
    """
    from gkd_dist.cli import planning
    from gkd_dist.planning.devices import load_device
    from gkd_dist.preparation.plan_inputs import Given
    from gkd_dist.preparation.problems import collect

    problems: list[str] = []
    config = collect(problems, lambda: _loaded(recipe, overrides, student_params, teacher_params))
    wanted = None if split is None else collect(problems, lambda: planning.parsed_split(split))
    if problems or config is None:
        if device is not None:
            collect(problems, lambda: load_device(device))
        raise ConfigError(problems)
    given = Given(student_params, teacher_params, prompt_tokens, completion_tokens, fixed_tokens)
    hardware = planning.Hardware(device, gpus, wanted, calibrate, output_dir, quantile, save_device)
    raise typer.Exit(planning.plan(config, given, hardware, as_json=as_json))


def _loaded(recipe: str, overrides: list[str] | None, student: str | None, teacher: str | None) -> "RunConfig":
    """The configuration; a model that it does not name, and whose size is given, gets a name."""
    try:
        return load(recipe, overrides, config_only=True)
    except ConfigError as error:
        sizes = {"student.model": student, "teacher.model": teacher}
        named = [
            f"{key}=given-by-its-size"
            for key, size in sizes.items()
            if size is not None and any(problem.startswith(f"{key}: required") for problem in error.problems)
        ]
        if not named:
            raise
        return load(recipe, [*(overrides or []), *named], config_only=True)
