"""Configurations out of the command line (floor F5)."""

from pathlib import Path
from typing import TYPE_CHECKING

from gkd_dist.errors import ConfigError

if TYPE_CHECKING:
    from gkd_dist.config.evaluation import EvalConfig
    from gkd_dist.config.run import RunConfig


def load(recipe: str, overrides: list[str] | None, *, config_only: bool = False) -> "RunConfig":
    """The checked configuration; where it is not valid, what it names and is not there is told with it."""
    from gkd_dist.config.load import InvalidError, load_run_config
    from gkd_dist.config.run import RunConfig

    try:
        return load_run_config(recipe, overrides or [])
    except InvalidError as error:
        if config_only or not isinstance(error.config, RunConfig):
            raise
        from gkd_dist.preparation import not_there

        raise ConfigError([*error.problems, *not_there(error.config, error.unsure)]) from error


def load_task(
    file: Path | None, given: dict[str, str], overrides: list[str] | None, output_dir: Path | None
) -> "EvalConfig":
    """As `load`; without an `output_dir` nothing that is named is looked for."""
    from gkd_dist.config.evaluation import EvalConfig
    from gkd_dist.config.load import InvalidError, load_eval_config

    parts = [] if file is None else [str(file)] if file.exists() else str(file).split("+")  # recipes are of runs alone
    if missing := [part for part in parts if not Path(part).expanduser().exists()]:
        from gkd_dist.data.sources import no_such_file

        raise ConfigError([no_such_file(part, "--config") for part in missing])
    try:
        return load_eval_config(file, given, overrides or [])
    except InvalidError as error:
        if not isinstance(error.config, EvalConfig) or output_dir is None:
            raise
        from gkd_dist.eval_preparation import not_there

        raise ConfigError([*error.problems, *not_there(error.config, error.unsure, output_dir=output_dir)]) from error
