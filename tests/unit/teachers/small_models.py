"""Checkpoints of every causal type with sizes small enough for a test."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel

VOCABULARY = 64

_SIZES = {
    "hidden_size": ("d_model", "n_embd"),
    "intermediate_size": ("d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"),
    "num_hidden_layers": (
        "num_layers",
        "n_layer",
        "n_layers",
        "num_decoder_layers",
        "encoder_layers",
        "decoder_layers",
    ),
    "num_attention_heads": ("num_heads", "n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads"),
    "max_position_embeddings": ("n_positions",),
    "num_experts": ("num_local_experts", "n_routed_experts"),
    "moe_intermediate_size": ("shared_expert_intermediate_size",),
    "n_group": ("topk_group",),
    "q_lora_rank": ("kv_lora_rank",),
    "qk_rope_head_dim": ("qk_nope_head_dim",),
    "head_dim": ("v_head_dim", "d_kv"),
    "pad_token_id": ("decoder_start_token_id",),
}
_VALUES: dict[str, object] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "num_experts": 4,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "head_dim": 8,
    "pad_token_id": 0,
}
_COMMON = _VALUES | dict(
    vocab_size=VOCABULARY,
    num_key_value_heads=2,
    num_experts_per_tok=2,
    word_embed_proj_dim=32,
    initializer_range=0.5,
    bos_token_id=None,
    eos_token_id=1,
    **{alias: _VALUES[name] for name, aliases in _SIZES.items() for alias in aliases},
)
_UNSET = object()
_GROUPS: list[tuple[str, dict[str, object]]] = [
    ("axk1 axk2 deepseek_v3 deepseek_v32 longcat_flash youtu", {"num_key_value_heads": 4, "head_dim": 4}),
    ("glm4_moe_lite glm_moe_dsa", {"num_key_value_heads": 4}),
    ("codegen gptj", {"rotary_dim": 4}),
    ("cohere cohere2 cohere2_moe", {"logit_scale": 0.25}),
    ("gemma4_text", {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}),
    ("gemma2 gemma3_text gemma4_text gemma4_unified_text nanochat vaultgemma", {"final_logit_softcapping": 3.0}),
    ("granite granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared", {"logits_scaling": 4.0}),
    ("hyperclovax", {"logits_scaling": 4.0}),
    ("bamba granitemoehybrid", {"mamba_n_heads": 8, "mamba_d_head": 8}),
    ("minicpm3", {"dim_model_base": 8}),
    ("cwm", {"bos_token_id": 0}),
    ("dots1", {"n_shared_experts": 1}),
    ("falcon", {"head_dim": _UNSET}),
    ("falcon_h1", {"lm_head_multiplier": 0.25}),
    ("gpt_neo", {"attention_types": [[["global"], 2]]}),
    ("lfm2_moe", {"layer_types": ["full_attention", "full_attention"]}),
    ("mamba2", {"num_heads": 8, "expand": 2, "n_groups": 1, "state_size": 8}),
    ("recurrent_gemma", {"logits_soft_cap": 3.0}),
    ("xlnet", {"max_position_embeddings": _UNSET}),
    ("xlstm", {"v_head_dim": _UNSET, "output_logit_soft_cap": 3.0}),
    ("zaya", {"num_experts_per_tok": 1}),
]
"""What some types need, and what makes their factors differ from 1."""


def config_of(model_type: str, **changes: object) -> PretrainedConfig:
    own = {key: value for types, values in _GROUPS if model_type in types.split() for key, value in values.items()}
    values = _COMMON | own | changes
    return AutoConfig.for_model(model_type, **{key: value for key, value in values.items() if value is not _UNSET})


def save(path: Path, model_type: str, **changes: object) -> PreTrainedModel:
    """A small checkpoint with random weights, its head's bias (Phi, BART) and its norms among them."""
    torch.manual_seed(4)
    config = config_of(model_type, **changes)
    maker = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = maker.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) / 4)
        for name, buffer in model.named_buffers():
            if name == "final_logits_bias":
                buffer.add_(torch.randn_like(buffer))
    model.save_pretrained(path)
    return model
