"""InfraConfig: where a job runs and on how much; the recipe says what it computes (floor F1).

address: http://head:8265
output_dir: /shared/runs
samplers: {num_replicas: 4, num_gpus: 1}
env_from: [HF_TOKEN]
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from gkd_dist.config.base import MAX_REPLICAS, Strict
from gkd_dist.config.overrides import canonical_keys
from gkd_dist.config.ring import CustomResources
from gkd_dist.config.run import RunConfig
from gkd_dist.config.schema import expected, expected_entry, field_at, show
from gkd_dist.config.yaml_text import YamlTextError, parse_yaml
from gkd_dist.errors import ConfigError

STOP_WAIT_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
"""Ray's name for `stop_wait_s`."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"TOKEN(?!IZER)|SECRET|PASSW|CREDENTIAL|(?:^|_|API)(?:KEY|PASS|PAT|PWD|DSN)(?:_|$)", re.IGNORECASE)
"""Names of variables."""
_SECRET_VALUE = re.compile(r"^(?:gh[opsu]_|github_pat_|glpat-|hf_|sk-|xox[abp]-|AKIA)|://[^/@\s]*:[^/@\s]+@")
"""Tokens as those who issue them write them, and addresses with a password."""


class ReplicaShare(Strict):
    """One role whose replicas are counted; null leaves what the recipe says."""

    num_replicas: int | None = Field(default=None, ge=1, le=MAX_REPLICAS)
    """At the start."""
    num_cpus: float | None = Field(default=None, ge=0)
    """Of each replica, as is `num_gpus`."""
    num_gpus: float | None = Field(default=None, ge=0)
    """Of each replica."""
    resources: CustomResources | None = None
    """Ray's custom resources, such as {sampler: 1}."""


class LearnerShare(Strict):
    num_cpus: float | None = Field(default=None, ge=0)
    """Of each rank, as is `num_gpus`."""
    num_gpus: float | None = Field(default=None, ge=0)
    """Of each rank."""
    resources: CustomResources | None = None
    """Ray's custom resources, such as {learner: 1}."""


class EndpointConfig(Strict):
    """Of the controller's metrics."""

    host: str | None = None
    """Address that it listens at; 0.0.0.0 is all of the node."""
    port: int | None = Field(default=None, ge=0, le=65535)
    """0 picks a free port."""


class InfraConfig(Strict):
    """One place where jobs run."""

    address: str | None = None
    """Of the cluster's dashboard, such as http://head:8265; `--address` wins over it."""
    output_dir: Path | None = None
    """Absolute, on a file system that all nodes share and that outlives the cluster."""
    package: Literal["installed", "upload"] = "installed"
    """`installed`: the nodes have gkd_dist. `upload`: this checkout goes with the job, over what they have."""
    python: str = "python"
    """Of the nodes; the environment that holds gkd_dist and Ray."""
    env_from: tuple[str, ...] = ()
    """Names of environment variables that the job gets with the value they have where it is submitted: secrets."""
    env_vars: dict[str, str] = Field(default_factory=dict)
    """Environment variables with their values; no secrets."""
    stop_wait_s: int = Field(default=600, ge=1)
    """How long `ray job stop` waits for the checkpoint before it kills; Ray's own 3 s are too few."""
    num_cpus_driver: float = Field(default=0, ge=0)
    """Reserved for the controller."""
    samplers: ReplicaShare = ReplicaShare()
    teachers: ReplicaShare = ReplicaShare()
    """Of each teacher."""
    learner: LearnerShare = LearnerShare()
    metrics: EndpointConfig = EndpointConfig()

    @field_validator("output_dir")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_absolute():
            raise ValueError(f"must be absolute (a job has no folder of its own to stay in), got {path}")
        return path

    @field_validator("env_from")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        _check_variables(names)
        if STOP_WAIT_VARIABLE in names:
            raise ValueError(f"{STOP_WAIT_VARIABLE}: say stop_wait_s instead")
        return names

    @field_validator("env_vars")
    @classmethod
    def _without_secrets(cls, variables: dict[str, str]) -> dict[str, str]:
        _check_variables(variables)
        secrets = [name for name, value in variables.items() if _SECRET.search(name) or _SECRET_VALUE.search(value)]
        if secrets:
            raise ValueError(f"{', '.join(secrets)}: a secret must not stand in a file; name it under env_from")
        if STOP_WAIT_VARIABLE in variables:
            raise ValueError(f"{STOP_WAIT_VARIABLE}: say stop_wait_s instead")
        return variables

    def overrides(self, config: RunConfig) -> list[str]:
        """Of the recipe `config`, as `key.path=value`."""
        values: dict[str, Any] = {
            "output_dir": self.output_dir,
            "sampler.num_replicas": self.samplers.num_replicas,
            "cluster.num_cpus_per_sampler": self.samplers.num_cpus,
            "cluster.num_gpus_per_sampler": self.samplers.num_gpus,
            "cluster.resources_per_sampler": self.samplers.resources,
            **{f"{config.key_of(name)}.num_replicas": self.teachers.num_replicas for name in config.named_teachers},
            "cluster.num_cpus_per_teacher": self.teachers.num_cpus,
            "cluster.num_gpus_per_teacher": self.teachers.num_gpus,
            "cluster.resources_per_teacher": self.teachers.resources,
            "cluster.num_cpus_learner": self.learner.num_cpus,
            "cluster.num_gpus_learner": self.learner.num_gpus,
            "cluster.resources_learner": self.learner.resources,
            "metrics.host": self.metrics.host,
            "metrics.port": self.metrics.port,
        }
        return [f"{key}={json.dumps(value, default=str)}" for key, value in values.items() if value is not None]


def load_infra(path: Path) -> InfraConfig:
    """The checked content of an infrastructure file.

    Raises:
        ConfigError: with all problems, one line each.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror})"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8"]) from error
    except YamlTextError as error:
        raise ConfigError([f"{path}, line {error.line}, column {error.column}: {error.problem}"]) from error
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: must be a mapping of keys to values, got {show(content)}"])
    problems: list[str] = []
    tree = canonical_keys(content, InfraConfig, problems)
    try:
        config = InfraConfig.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        problems += [_problem(each["loc"], each["msg"], each.get("ctx", {})) for each in error.errors()]
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in dict.fromkeys(problems)])
    return config


def _problem(loc: tuple[int | str, ...], message: str, context: dict[str, Any]) -> str:
    """Never the value: it may be a secret in the wrong place."""
    key = ".".join(str(part) for part in loc)
    if "error" in context:
        return f"{key}: {context['error']}"
    names = tuple(str(part) for part in loc)
    for end in range(len(names), 0, -1):
        if (field := field_at(InfraConfig, names[:end])) is not None:
            return f"{key}: must be {expected(field) if end == len(names) else expected_entry(field)}"
    return f"{key}: {message}"


def _check_variables(names: Sequence[str] | dict[str, str]) -> None:
    if wrong := [name for name in names if not _VARIABLE.fullmatch(name)]:
        raise ValueError(f"{', '.join(wrong)}: no name of an environment variable")
    if taken := [name for name in names if name.startswith("RAY_AUTH_")]:
        raise ValueError(f"{', '.join(taken)}: the nodes of a cluster have its token themselves; remove it")
