"""Whether the servers of teachers answer (floor F5)."""

from functools import partial

from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError
from gkd_dist.preparation.problems import collect


def ask_servers(config: RunConfig) -> None:
    """Whether the servers of teachers answer, asked from here.

    Raises:
        ConfigError: with one line for each that does not.
    """
    problems: list[str] = []
    for name, teacher in config.named_teachers.items():
        if teacher.engine == "server":
            from gkd_dist.build.teacher import endpoint_of
            from gkd_dist.teachers.server_check import find_model

            endpoint = endpoint_of(teacher, config.key_of(name))
            collect(problems, partial(find_model, endpoint, teacher.served_model_name))
    if problems:
        raise ConfigError(problems)
