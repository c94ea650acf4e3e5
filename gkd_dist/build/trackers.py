"""Which experiment trackers a configuration asks for."""

import hashlib
import importlib
from pathlib import Path
from typing import Any

from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError, plain
from gkd_dist.interfaces import RecordSink
from gkd_dist.metrics.trackers import Tracker


def check_trackers(config: RunConfig) -> None:
    """Import what is asked for.

    Raises:
        ConfigError: with one line, and the command that mends it, for each that is missing or broken.
    """
    problems = []
    for name in config.metrics.report_to:
        try:
            importlib.import_module(f"gkd_dist.metrics.{name}_sink")
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            problems.append(f"metrics.report_to: {name} needs the package {package}; pip install {name}")
        except Exception as error:
            problems.append(
                f"metrics.report_to: {name} is broken ({plain(error)}); pip install --force-reinstall {name}, or "
                "leave it out"
            )
    if problems:
        raise ConfigError(problems)


def make_trackers(config: RunConfig, folder: Path) -> list[RecordSink]:
    """One sink per tracker that is asked for.

    Args:
        folder: of the run.

    Raises:
        ConfigError: one refuses to start; the others are closed.
    """
    made: list[RecordSink] = []
    for name in config.metrics.report_to:
        try:
            made.append(Tracker(name, _sink(name, config, folder)))
        except Exception as error:
            for each in made:
                each.close()
            raise ConfigError(
                [f"metrics.report_to: {name} does not start ({plain(error)}); mend that, or leave it out"]
            ) from error
    return made


def _sink(name: str, config: RunConfig, folder: Path) -> RecordSink:
    settings: dict[str, Any] = config.model_dump(mode="json")
    match name:
        case "tensorboard":
            from gkd_dist.metrics.tensorboard_sink import TensorBoardSink

            return TensorBoardSink(folder / "tensorboard")
        case "wandb":
            from gkd_dist.metrics.wandb_sink import WandbSink

            identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
            return WandbSink(folder, folder.name, f"{folder.name}-{identity}", settings)
        case _:
            from gkd_dist.metrics.trackio_sink import TrackioSink

            return TrackioSink(folder.name, settings)
