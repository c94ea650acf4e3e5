"""What `gkd submit` does: checks a recipe here, sends it to a cluster, and starts it there as a job.

The job gets the resolved recipe as one file, so that what was checked is what runs. With a working folder it gets that
instead, and resolves the recipe in it.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir
from pathlib import Path
from typing import Any

import gkd_dist
from gkd_dist.config.infra import STOP_WAIT_VARIABLE, InfraConfig, load_infra
from gkd_dist.config.load import dump_run_config, load_run_config
from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError
from gkd_dist.operations.logs import follow
from gkd_dist.operations.subject import require_address
from gkd_dist.preparation.problems import collect

_RECIPE = "recipe.yaml"


def submit(
    recipe: str,
    overrides: Sequence[str],
    *,
    address: str | None,
    infra_path: Path | None,
    working_dir: Path | None,
    is_followed: bool,
) -> int:
    """Prints the submission id; returns 0, or the exit code of a job that is followed.

    Args:
        recipe: a packaged name, or a file; with `working_dir` one in that.

    Raises:
        ConfigError: with all problems of the infrastructure file, or of the recipe.
        ResourceError: no cluster answers at the address, or it refuses the token.
    """
    infra = InfraConfig() if infra_path is None else load_infra(infra_path)
    if working_dir is not None and not working_dir.is_dir():
        raise ConfigError([f"--working-dir: {working_dir} is not a folder"])
    with ExitStack() as stack:
        if working_dir is not None:
            stack.enter_context(chdir(working_dir))
        problems: list[str] = []
        resolved = collect(problems, lambda: _resolved(recipe, overrides, infra, is_alone=working_dir is None))
        variables = collect(problems, lambda: job_environment(infra))
        where = collect(problems, lambda: require_address(address or infra.address))
    if resolved is None or variables is None or where is None:
        raise ConfigError(problems)
    config, settings = resolved
    from gkd_dist.cluster.jobs import Jobs

    jobs = Jobs(where)
    with tempfile.TemporaryDirectory(prefix="gkd-submit-") as folder:
        command = [infra.python, "-m", "gkd_dist", "run"]
        if working_dir is None:
            (Path(folder) / _RECIPE).write_text(dump_run_config(config), encoding="utf-8")
            command += [_RECIPE]
        else:
            command += [recipe, *settings]
        runtime_env: dict[str, Any] = {"working_dir": str(working_dir or folder), "env_vars": variables}
        if infra.package == "upload":
            runtime_env["py_modules"] = [str(Path(gkd_dist.__file__).parent)]
        submission_id = jobs.submit(
            command,
            run=config.name,
            runtime_env=runtime_env,
            metadata={"gkd_version": gkd_dist.__version__, "gkd_recipe": recipe},
            num_cpus=infra.num_cpus_driver,
        )
    print(f"submitted {submission_id} to {jobs.address}; it runs below {config.output_dir}", flush=True)
    print(f"look: gkd status {submission_id} --address {jobs.address} (logs -f, stop)", flush=True)
    return follow(jobs, submission_id) if is_followed else 0


def job_environment(infra: InfraConfig, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables of the job.

    Raises:
        ConfigError: variables that are to come from here and are not set; all of them.
    """
    missing = [name for name in infra.env_from if name not in environment]
    if missing:
        raise ConfigError([f"env_from: {name} is not set here; set it, or take it out" for name in missing])
    named = {name: environment[name] for name in infra.env_from}
    return {STOP_WAIT_VARIABLE: str(infra.stop_wait_s), **infra.env_vars, **named}


def _resolved(
    recipe: str, overrides: Sequence[str], infra: InfraConfig, *, is_alone: bool
) -> tuple[RunConfig, list[str]]:
    """The configuration, and what was laid over the recipe for it: infrastructure, then the user's own overrides.

    Args:
        is_alone: no working folder goes with it, so that relative paths are those of this machine.
    """
    plain = load_run_config(recipe, overrides)
    settings = [*infra.overrides(plain), *overrides]
    config = load_run_config(recipe, settings)
    if config.cluster.mode == "ray" and config.cluster.address == "local":
        settings.append("cluster.address=auto")  # the cluster that it is a job of
    if is_alone:
        settings += _absolute_paths(config)
    config = load_run_config(recipe, settings)
    if not config.output_dir.is_absolute():
        raise ConfigError(
            [
                f"output_dir: {config.output_dir} is relative, and a job has no folder of its own to stay in; give an "
                "absolute path on a file system that all nodes share (output_dir=/..., or in the --infra file)"
            ]
        )
    return config, settings


def _absolute_paths(config: RunConfig) -> list[str]:
    """Overrides for files and folders that are named relative to this one."""
    tree = config.model_dump(mode="json", exclude={"output_dir"})
    return [
        f"{key}={json.dumps(str(Path(value).resolve()))}"
        for key, value in _paths(tree)
        if not Path(value).is_absolute() and Path(value).exists()
    ]


def _paths(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Keys that may name a file, with their values."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")
        elif isinstance(value, str) and value and (name in ("model", "path") or name.endswith(("_path", "_dir"))):
            yield prefix + name, value
