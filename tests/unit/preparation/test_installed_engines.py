"""An engine that starts here has to be installed; one that starts on the nodes of another cluster has not."""

import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec

import pytest

from gkd_dist.config.load import load_run_config
from gkd_dist.errors import ConfigError
from gkd_dist.preparation.engines import check_engines


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Callable[..., ModuleSpec | None] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else found(name))


@pytest.mark.parametrize("settings", [[], ["cluster.address=local"]])
def test_what_is_missing_is_named_with_what_to_type(settings: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        check_engines(load_run_config("quickstart", settings))
    assert raised.value.problems == (
        "sampler.engine=vllm: vLLM is not installed; run `pip install 'gkd-dist[gpu]'`, or without a GPU give "
        "sampler.engine=hf teacher.engine=hf",
    )


def test_only_what_asks_for_it_is_changed() -> None:
    with pytest.raises(ConfigError, match=r"^teacher\.engine=vllm: .* give teacher\.engine=hf$"):
        check_engines(load_run_config("quickstart", ["sampler.engine=hf"]))


@pytest.mark.parametrize("settings", [["sampler.engine=hf", "teacher.engine=hf"], ["cluster.address=auto"]])
def test_where_nothing_of_it_starts_here_nothing_is_missing(settings: list[str]) -> None:
    check_engines(load_run_config("quickstart", settings))
