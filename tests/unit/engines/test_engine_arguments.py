"""The user's arguments of a teacher's vLLM engine, over ours."""

import pytest

pytest.importorskip("vllm")

from gkd_dist.engines.vllm_engine import merged_args

OURS = {"seed": 1, "hf_overrides": {"head_dtype": "float32"}}


def test_the_users_arguments_win() -> None:
    assert merged_args(OURS, {"seed": 2}) == {"seed": 2, "hf_overrides": {"head_dtype": "float32"}}
    assert merged_args({}, {}) == {}


def test_an_override_of_the_models_configuration_keeps_the_head_in_float32() -> None:
    overrides = {"head_dtype": "float32", "rope_theta": 1e6}
    assert merged_args(OURS, {"hf_overrides": {"rope_theta": 1e6}}) == {"seed": 1, "hf_overrides": overrides}
    assert OURS["hf_overrides"] == {"head_dtype": "float32"}
    assert merged_args({}, {"hf_overrides": {"a": 1}}) == {"hf_overrides": {"a": 1}}
