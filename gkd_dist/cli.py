"""The `gkd` command (floor F5): parses, builds, starts; computes nothing.

Heavy modules are imported inside the commands, so that `gkd --help` is instant. Exit codes, all decided in `main`:
0 done; 2 usage, configuration or anything else the user can mend; 70 internal; 75 stopped with a good checkpoint, the
same command goes on; 130 (Ctrl-C) and 143 (SIGTERM) stopped at once.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gkd_dist import __version__
from gkd_dist.arguments import AsJson, OutputDir, Overrides, Recipe, Run
from gkd_dist.errors import ConfigError, GkdError, StoppedError, plain
from gkd_dist.operations.commands import app as operations
from gkd_dist.process import prepare_this_process
from gkd_dist.serial import is_at_work

if TYPE_CHECKING:
    from gkd_dist.config.evaluation import EvalConfig
    from gkd_dist.config.run import RunConfig

EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="gkd",
    help="On-policy distillation of language models (GKD) as a distributed actor/learner system.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(operations)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        args: None: those of this process, which ends at once where an engine is still at work.
    """
    code = _main(args)
    if args is None and is_at_work():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _main(args: Sequence[str] | None) -> int:
    prepare_this_process()
    try:
        app(args=None if args is None else list(args), prog_name="gkd")
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED:
            print("interrupted", file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except GkdError as error:
        prefix = "" if isinstance(error, StoppedError) else "error: "
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"{prefix}{line}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            traceback.print_exc()
        else:
            print(f"error: {plain(error)}; make room there, and run the same command again", file=sys.stderr)
        return EXIT_INTERNAL
    except Exception:
        traceback.print_exc()
        return EXIT_INTERNAL
    return 0


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


@app.command()
def run(recipe: Recipe, overrides: Overrides = None) -> None:
    """Distil: run a recipe to its end."""
    config = _load(recipe, overrides)
    from gkd_dist.distillation import run as run_ring

    raise typer.Exit(run_ring(config))


@app.command()
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

    config = _load(recipe, overrides, config_only=config_only)
    if not config_only:
        from gkd_dist.commands import preflight

        for line in preflight(config):
            print(line, file=sys.stderr if show else sys.stdout)
    print(dump_run_config(config) if show else "ok", end="" if show else "\n")


@app.command()
def rows(
    recipe: Recipe,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="JSON lines; otherwise printed.", show_default=False)
    ] = None,
) -> None:
    """Write the rows of a recipe's data: prompts as models see them (but for chat templates), and completions."""
    config = _load(recipe, overrides)
    from gkd_dist.commands import rows as write_rows

    raise typer.Exit(write_rows(config, output))


@app.command()
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


@app.command()
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
    from gkd_dist.commands import prune as prune_model

    raise typer.Exit(prune_model(model, output, num_layers, dropped))


@app.command("eval")
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
    if task is data is file is predictions is None:
        if subject is None:
            raise typer.BadParameter("give a model and --task, or a recipe", param_hint="MODEL|RECIPE")
        config = _load(subject, overrides)
        from gkd_dist.commands import evaluate as evaluate_student

        raise typer.Exit(evaluate_student(config, model))
    if model is not None:
        raise typer.BadParameter("belongs to a recipe; give the model as the first argument", param_hint="--model")
    known = {} if predictions is None else {"model": "-", "data": "-"}
    given = {"model": subject, "task": task, "data": data}
    if subject is not None and (predictions is not None or "=" in subject):
        overrides, given["model"] = [subject, *(overrides or [])], None
    texts = known | {key: text for key, text in given.items() if text}
    task_config = _load_task(file, texts, overrides, None if predictions is not None else output_dir)
    from gkd_dist import evaluating

    if predictions is not None:
        raise typer.Exit(evaluating.recompute(predictions, task_config, as_json=as_json))
    raise typer.Exit(evaluating.evaluate(task_config, as_json=as_json, output_dir=output_dir))


@app.command()
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
    config = _load_task(None, {key: text for key, text in given.items() if text}, overrides, output_dir)
    from gkd_dist.evaluating import generate as generate_texts

    raise typer.Exit(generate_texts(config, output, output_dir=output_dir))


@app.command()
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


@app.command(context_settings={"ignore_unknown_options": True})  # -1 is a number, and out of range
def explain(
    run: Run,
    step: Annotated[int, typer.Argument(metavar="STEP", min=0, help="Train step, counted from 0.")],
    as_json: AsJson = False,
    output_dir: OutputDir = Path("runs"),
) -> None:
    """List what a train step was trained on."""
    from gkd_dist.inspection import explain as explain_step

    raise typer.Exit(explain_step(run, output_dir, step, as_json=as_json))


@app.command()
def experiment(
    name: Annotated[
        str | None,
        typer.Argument(metavar="FIGURE", help="Name of an experiment, or path of a YAML file.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the experiments.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs and what they would cost.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Only tables and plots of what is finished.")] = False,
    scale: Annotated[
        str | None, typer.Option("--scale", metavar="SCALE", help="Such as small or paper.", show_default=False)
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

    if list_all:
        raise typer.Exit(door.list_experiments())
    if name is None:
        raise typer.BadParameter("is missing; `gkd experiment --list` shows them", param_hint="FIGURE")
    request = door.Request(name, overrides or [], scale, output_dir, address, num_cpus, replace_changed)
    act = door.dry_run if dry_run else door.report_only if report else door.run_experiment
    raise typer.Exit(act(request))


@app.command()
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


def _load(recipe: str, overrides: list[str] | None, *, config_only: bool = False) -> "RunConfig":
    """The checked configuration; where it is not valid, what it names and is not there is told with it."""
    from gkd_dist.config.load import InvalidError, load_run_config

    try:
        return load_run_config(recipe, overrides or [])
    except InvalidError as error:
        if config_only or error.config is None:
            raise
        from gkd_dist.preparation import not_there

        raise ConfigError([*error.problems, *not_there(error.config)]) from error


def _load_task(
    file: Path | None, given: dict[str, str], overrides: list[str] | None, output_dir: Path | None
) -> "EvalConfig":
    """As `_load`; without an `output_dir` nothing that is named is looked for."""
    from gkd_dist.config.load import InvalidError, load_eval_config

    try:
        return load_eval_config(file, given, overrides or [])
    except InvalidError as error:
        if error.config is None or output_dir is None:
            raise
        from gkd_dist.eval_preparation import not_there

        raise ConfigError([*error.problems, *not_there(error.config, output_dir=output_dir)]) from error


def _layer_numbers(text: str) -> tuple[int, ...]:
    """`4,6,7` as numbers, counted from 0."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0:
        raise typer.BadParameter(f"{text!r} is not a list of layer numbers such as 4,6,7", param_hint="--drop-layers")
    return numbers
