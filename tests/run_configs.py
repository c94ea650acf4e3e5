"""What is wrong with the configuration of a run."""

from collections.abc import Iterable

from gkd_dist.config.load import load_run_config
from gkd_dist.errors import ConfigError


def problems_of(recipe: str, overrides: Iterable[str]) -> list[str]:
    """What loading it complains of; empty where it loads."""
    try:
        load_run_config(recipe, list(overrides))
    except ConfigError as error:
        return list(error.problems)
    return []
