"""Whether engines that start on this machine are installed (floor F5)."""

import importlib.util
from collections.abc import Iterator

from gkd_dist.config.run import RunConfig
from gkd_dist.errors import ConfigError


def check_engines(config: RunConfig) -> None:
    """Look for vLLM where it is asked for; nothing is imported. Nodes of a cluster that is joined have their own.

    Raises:
        ConfigError: it is not installed.
    """
    named = sorted(_of_vllm(config))
    if not named or (config.cluster.mode == "ray" and config.cluster.address != "local"):
        return
    if importlib.util.find_spec("vllm") is None:
        instead = " ".join(key.replace("vllm", "hf") for key in named)
        raise ConfigError(
            [f"{named[0]}: vLLM is not installed; run `pip install 'gkd-dist[gpu]'`, or without a GPU give {instead}"]
        )


def _of_vllm(config: RunConfig) -> Iterator[str]:
    sections = {config.key_of(name): teacher.engine for name, teacher in config.named_teachers.items()}
    for section, engine in {"sampler": config.sampler.engine, **sections}.items():
        if engine == "vllm":
            yield f"{section}.engine=vllm"
