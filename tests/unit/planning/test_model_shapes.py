"""Parameters and caches of models whose sizes are published."""

import pytest

from gkd_dist.errors import ModelError
from gkd_dist.planning.shapes import ASSUMED_VOCABULARY, shape_of_config, shape_of_size

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
QWEN_MOE = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "tie_word_embeddings": False,
}
T5_SMALL = {
    "model_type": "t5",
    "is_encoder_decoder": True,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "feed_forward_proj": "relu",
    "vocab_size": 32128,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(
    ("config", "billions", "active"),
    [
        pytest.param(LLAMA_8B, 8.03, 7.50, id="grouped queries"),
        pytest.param(QWEN_MOE, 30.5, 3.04, id="experts"),
        pytest.param(DEEPSEEK_V3, 671.0, 36.6, id="latent attention, shared experts, dense first layers"),
        pytest.param(T5_SMALL, 0.0605, 0.0385, id="encoder-decoder"),
    ],
)
def test_parameters_are_those_of_the_model_cards(config: dict[str, object], billions: float, active: float) -> None:
    shape = shape_of_config(config, "model")

    assert shape.num_params / 1e9 == pytest.approx(billions, rel=0.01)
    assert shape.active_params / 1e9 == pytest.approx(active, rel=0.02)  # without the embedding, which is looked up


def test_the_cache_holds_key_value_heads_and_not_query_heads() -> None:
    assert shape_of_config(LLAMA_8B, "model").cached_numbers == 2 * 32 * 8 * 128
    assert shape_of_config(DEEPSEEK_V3, "model").cached_numbers == 61 * (512 + 64)


def test_one_token_reads_its_experts_and_many_read_all() -> None:
    shape = shape_of_config(QWEN_MOE, "model")

    assert shape.weights_read(1) == pytest.approx(shape.active_params)
    assert shape.weights_read(10_000) == pytest.approx(shape.num_params - shape.head_params)


def test_a_pruned_model_has_the_body_of_its_layers_and_the_whole_vocabulary() -> None:
    whole = shape_of_config(LLAMA_8B, "model")
    half = whole.pruned(16)

    vocabulary = 2 * whole.head_params
    assert half.num_params - vocabulary == pytest.approx((whole.num_params - vocabulary) / 2)


def test_sizes_of_a_model_inside_another_are_found() -> None:
    outer = {"model_type": "gemma3", "text_config": LLAMA_8B}
    assert shape_of_config(outer, "model") == shape_of_config(LLAMA_8B, "model")


@pytest.mark.parametrize(("size", "billions", "active"), [("0.6B", 0.6, 0.6), ("32b", 32, 32), ("30B-A3B", 30, 3)])
def test_a_size_is_kept(size: str, billions: float, active: float) -> None:
    shape = shape_of_size(size)

    assert shape.num_params / 1e9 == pytest.approx(billions, rel=0.02)
    # Embeddings are no work: up to a quarter of a small model.
    assert 0.7 * active <= shape.active_params / 1e9 <= 1.01 * active


@pytest.mark.parametrize(
    ("size", "vocabulary", "params"),
    [("77M", None, 77e6), ("20M", None, 20e6), ("2M", 512, 2e6), ("1.7B", 49_152, 1.7e9), ("8B-A0.5B", None, 8e9)],
)
def test_a_small_model_is_not_made_larger(size: str, vocabulary: int | None, params: float) -> None:
    shape = shape_of_size(size, vocabulary)
    assert shape.num_params == pytest.approx(params)
    assert shape.vocab_size == (vocabulary or ASSUMED_VOCABULARY)
    assert shape.head_params < shape.num_params


def test_a_model_that_its_vocabulary_does_not_fit_into_is_refused() -> None:
    with pytest.raises(ModelError, match=r"too small for a vocabulary of 151,936.*config\.json"):
        shape_of_size("2M")


@pytest.mark.parametrize("size", ["", "8", "large", "3B-A8B", "0B", "-1B"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(ModelError, match=r"1\.7B"):
        shape_of_size(size)


def test_a_config_without_sizes_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"hidden_size.*give the model's size"):
        shape_of_config({"model_type": "llama"}, "model")
