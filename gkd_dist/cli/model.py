"""Commands about models: make one smaller, evaluate it, ask it (floor F5)."""

from pathlib import Path
from typing import Annotated

import typer

from gkd_dist.cli.arguments import AsJson, OutputDir, Overrides
from gkd_dist.cli.configuration import load, load_task


def prune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A local folder, a hub name, or package:NAME.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder to write; must not exist.")],
    num_layers: Annotated[int, typer.Option("--num-layers", min=1, help="How many decoder layers to keep.")],
    drop_layers: Annotated[
        str | None,
        typer.Option("--drop-layers", metavar="4,6,7", help="Drop exactly these; otherwise the choice is measured."),
    ] = None,
) -> None:
    """Make a student by dropping decoder layers of a model."""
    dropped = None if drop_layers is None else _layer_numbers(drop_layers)
    from gkd_dist.cli.pruning import prune as prune_model

    raise typer.Exit(prune_model(model, output, num_layers, dropped))


def evaluate(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL|RECIPE",
            help="With --task: a folder, hub name, package:NAME or run. Without: a recipe, with its held-out rows.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="summarisation, translation, gsm8k, mmlu, bbh or generation.", show_default=False),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="PATH", help="Of a task.", show_default=False)] = None,
    file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="YAML with the keys of a task.", show_default=False)
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", metavar="FILE", help="Compute the figures of these again.", show_default=False),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="PATH", help="Of a recipe: a saved student.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    output_dir: OutputDir = Path("runs"),
) -> None:
    """Evaluate a model on a task, or a student on the held-out rows of a recipe."""
    if all(each is None for each in (task, data, file, predictions)):
        if subject is None:
            raise typer.BadParameter("give a model and --task, or a recipe", param_hint="MODEL|RECIPE")
        config = load(subject, overrides)
        from gkd_dist.cli.student_evaluation import evaluate as evaluate_student

        raise typer.Exit(evaluate_student(config, model, as_json=as_json))
    if model is not None:
        raise typer.BadParameter("belongs to a recipe; give the model as the first argument", param_hint="--model")
    if predictions is not None and subject is not None and "=" not in subject:
        told = f"a model has no part in --predictions; leave {subject} out"
        raise typer.BadParameter(told, param_hint="MODEL|RECIPE")
    known = {} if predictions is None else {"model": "-", "data": "-"}
    given = {"model": subject, "task": task, "data": data}
    if subject is not None and (predictions is not None or "=" in subject):
        overrides, given["model"] = [subject, *(overrides or [])], None
    texts = known | {key: text for key, text in given.items() if text}
    task_config = load_task(file, texts, overrides, None if predictions is not None else output_dir)
    from gkd_dist import evaluating

    if predictions is not None:
        keys = {each.partition("=")[0].partition(".")[0].strip() for each in overrides or []}
        keys |= set() if data is None else {"data"}
        raise typer.Exit(evaluating.recompute(predictions, task_config, keys, as_json=as_json))
    raise typer.Exit(evaluating.evaluate(task_config, as_json=as_json, output_dir=output_dir))


def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, a hub name, package:NAME, or a run.")],
    overrides: Overrides = None,
    prompts: Annotated[str | None, typer.Option("--prompts", metavar="FILE", help="Rows with a prompt.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="JSON lines; otherwise printed.", show_default=False)
    ] = None,
    output_dir: OutputDir = Path("runs"),
) -> None:
    """Answer the prompts of a file."""
    given = {"model": model, "task": "generation", "data": prompts}
    config = load_task(None, {key: text for key, text in given.items() if text}, overrides, output_dir)
    if config.reward is not None:
        raise typer.BadParameter("gkd generate judges nothing; use gkd eval --task generation", param_hint="reward")
    if config.teacher is not None:
        raise typer.BadParameter("gkd generate measures nothing; use gkd eval --task generation", param_hint="teacher")
    from gkd_dist.evaluating import generate as generate_texts

    raise typer.Exit(generate_texts(config, output, output_dir=output_dir))


def _layer_numbers(text: str) -> tuple[int, ...]:
    """`4,6,7` as numbers, counted from 0."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0:
        raise typer.BadParameter(f"{text!r} is not a list of layer numbers such as 4,6,7", param_hint="--drop-layers")
    return numbers
