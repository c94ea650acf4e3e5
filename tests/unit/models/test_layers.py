import pytest
import torch
from torch import nn
from transformers import BloomConfig, BloomForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from gkd_dist.errors import ModelError
from gkd_dist.models.layers import LayerStack, decoder_layers, remove_layers

from .tiny import NUM_LAYERS, seeded, tiny_llama, tiny_qwen2

DROPPED = (1, 2)
INPUT_IDS = torch.arange(24).reshape(2, 12) % 97


def tiny_bloom() -> PreTrainedModel:
    return BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=16, n_layer=NUM_LAYERS, n_head=2))


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=INPUT_IDS, use_cache=False).logits


def hand_built(model: PreTrainedModel) -> PreTrainedModel:
    """A model of fewer layers made from its configuration, with the kept layers' weights copied by name."""
    values = model.config.to_dict()
    kept = [layer for layer in range(NUM_LAYERS) if layer not in DROPPED]
    values["n_layer" if "n_layer" in values else "num_hidden_layers"] = len(kept)
    if values.get("layer_types"):
        values["layer_types"] = [values["layer_types"][layer] for layer in kept]
    small = type(model)(type(model.config).from_dict(values))
    source = model.state_dict()
    for name, tensor in small.state_dict().items():
        parts = name.split(".")
        parts = [str(kept[int(part)]) if part.isdigit() else part for part in parts]
        tensor.copy_(source[".".join(parts)])
    return small.eval()


def test_removed_layers_give_the_logits_of_a_hand_built_model(model: PreTrainedModel) -> None:
    expected = logits_of(hand_built(model))
    assert not torch.allclose(expected, logits_of(model), atol=1e-2)
    remove_layers(model, DROPPED)
    torch.testing.assert_close(logits_of(model), expected)


def test_bypassed_layers_give_the_logits_of_a_hand_built_model_and_leave_no_trace(model: PreTrainedModel) -> None:
    before = logits_of(model)
    stack = LayerStack(model)
    stack.trace(lambda: logits_of(model))
    with stack.bypass(DROPPED):
        torch.testing.assert_close(logits_of(model), logits_of(hand_built(model)))
    assert torch.equal(logits_of(model), before)


def test_bypass_is_undone_after_an_error(model: PreTrainedModel) -> None:
    before = logits_of(model)
    stack = LayerStack(model)
    stack.trace(lambda: logits_of(model))
    with pytest.raises(KeyError), stack.bypass(DROPPED):
        raise KeyError
    assert torch.equal(logits_of(model), before)


def test_bypass_before_trace_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(RuntimeError, match="trace"), LayerStack(model).bypass(DROPPED):
        pass


def test_layers_that_return_tuples_are_bypassed_with_tuples() -> None:
    model = seeded(tiny_bloom)
    expected = logits_of(hand_built(model))
    stack = LayerStack(model)
    stack.trace(lambda: logits_of(model))
    with stack.bypass(DROPPED):
        torch.testing.assert_close(logits_of(model), expected)


def test_layer_types_are_trimmed_with_the_layers() -> None:
    model = seeded(tiny_qwen2)
    remove_layers(model, (1, 2))
    assert model.config.layer_types == ["full_attention", "sliding_attention", "sliding_attention"]
    assert model.config.num_hidden_layers == 3


def test_token_id_lists_of_the_same_length_are_not_trimmed() -> None:
    model = seeded(tiny_llama)
    model.config.eos_token_id = [1, 2, 3, 4, 5]
    remove_layers(model, (0,))
    assert model.config.eos_token_id == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("dropped", [(0,), (1, 3), (4,)])
def test_generation_with_cache_equals_generation_without(model: PreTrainedModel, dropped: tuple[int, ...]) -> None:
    remove_layers(model, dropped)
    options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(INPUT_IDS)}
    with_cache = model.generate(INPUT_IDS, use_cache=True, **options)
    without = model.generate(INPUT_IDS, use_cache=False, **options)
    assert with_cache.tolist() == without.tolist()
    assert with_cache.shape[1] > INPUT_IDS.shape[1]


def test_encoder_decoders_are_refused_by_name() -> None:
    config = T5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2)
    with pytest.raises(ModelError, match="T5ForConditionalGeneration is not a plain decoder"):
        decoder_layers(seeded(lambda: T5ForConditionalGeneration(config)))


def test_a_model_without_one_stack_of_layers_is_refused_by_name() -> None:
    model = seeded(tiny_llama)
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(ModelError, match="LlamaForCausalLM does not keep its 5 decoder layers"):
        decoder_layers(model)
    model.model.layers = nn.ModuleList(model.model.layers)
    model.model.twins = nn.ModuleList(nn.Identity() for _ in range(NUM_LAYERS))
    with pytest.raises(ModelError, match=r"model\.layers, model\.twins"):
        decoder_layers(model)
