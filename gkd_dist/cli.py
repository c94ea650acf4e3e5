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
    recipe: Recipe,
    overrides: Overrides = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="PATH", help="A saved student; otherwise the recipe's own.")
    ] = None,
) -> None:
    """Evaluate a student on the held-out rows of a recipe."""
    config = _load(recipe, overrides)
    from gkd_dist.commands import evaluate as evaluate_student

    raise typer.Exit(evaluate_student(config, model))


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


def _layer_numbers(text: str) -> tuple[int, ...]:
    """`4,6,7` as numbers, counted from 0."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0:
        raise typer.BadParameter(f"{text!r} is not a list of layer numbers such as 4,6,7", param_hint="--drop-layers")
    return numbers
