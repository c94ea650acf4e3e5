"""What a command line asks of an experiment, and the runs that this means."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gkd_dist.config.load import InvalidError
from gkd_dist.errors import ConfigError
from gkd_dist.experiments.catalogue import load_experiment
from gkd_dist.experiments.inputs import input_problems
from gkd_dist.experiments.plan import PlannedRun, expand
from gkd_dist.experiments.spec import Experiment


@dataclass(frozen=True)
class Request:
    """One command line."""

    name: str
    overrides: Sequence[str] = ()
    scale: str | None = None
    output_dir: Path = Path("experiments")
    address: str = "local"
    num_cpus: float | None = None
    """At most; None: all of the cluster."""
    replace_changed: bool = False

    @property
    def title(self) -> str:
        """Name of its folder, without the scale."""
        return Path(self.name).stem


@dataclass(frozen=True)
class Opened:
    """An experiment, its folder and its scale, and its runs: none of a fit."""

    experiment: Experiment
    folder: Path
    scale: str
    plan: tuple[PlannedRun, ...]


def open_experiment(request: Request, *, reads: bool = False) -> Opened:
    """What a command line asks for.

    Args:
        reads: whether what runs read has to be there.

    Raises:
        ConfigError: with all problems, of the command line, of configurations and of files.
    """
    problems: list[str] = []
    try:
        experiment, scale = load_experiment(request.name, request.scale, request.overrides)
    except InvalidError as error:
        if not isinstance(error.config, Experiment):
            raise
        problems, experiment, scale = list(error.problems), error.config, ""
    folder = (request.output_dir / (f"{request.title}-{scale}" if scale else request.title)).absolute()
    plan: tuple[PlannedRun, ...] = ()
    try:
        plan = () if experiment.fit is not None else expand(experiment, folder)
    except ConfigError as error:
        problems += error.problems
    if reads:
        problems += input_problems(plan, folder)
    if problems:
        raise ConfigError(problems)
    return Opened(experiment, folder, scale, plan)
