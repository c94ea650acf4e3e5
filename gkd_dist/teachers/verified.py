"""Which teachers' readout we vouch for without loading the teacher."""

from pathlib import Path

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from gkd_dist.errors import ModelError

# fmt: off
VERIFIED = (
    "afmoe", "apertus", "arcee", "aria_text", "axk1", "axk2", "bamba", "bart", "bert-generation", "bigbird_pegasus",
    "biogpt", "bitnet", "blenderbot", "blenderbot-small", "bloom", "codegen", "cohere", "cohere2", "cohere2_moe",
    "cpmant", "ctrl", "cwm", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "diffllama", "doge",
    "dots1", "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe", "falcon", "falcon_h1", "falcon_mamba",
    "flex_olmo", "gemma", "gemma2", "gemma3_text", "gemma4_text", "gemma4_unified_text", "glm", "glm4", "glm4_moe",
    "glm4_moe_lite", "glm_moe_dsa", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_neox_japanese",
    "gpt_oss", "gptj", "granite", "granite_swa", "granitemoe", "granitemoe_swa", "granitemoehybrid",
    "granitemoeshared", "helium", "hrm_text", "hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3", "hy_v4", "hyperclovax",
    "inkling_text", "jais2", "jamba", "jetmoe", "kimi_linear", "laguna", "lfm2", "lfm2_moe", "llama",
    "longcat_flash", "mamba", "mamba2", "marian", "mbart", "mellum", "mimo_v2_flash", "minicpm3", "minimax",
    "minimax_m2", "minimax_m3_vl_text", "ministral", "ministral3", "mistral", "mixtral", "moshi", "mpt", "mvp",
    "nanochat", "nemotron", "nemotron_h", "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe", "openai-gpt", "opt",
    "pegasus", "persimmon", "phi", "phi3", "phimoe", "plbart", "qwen2", "qwen2_moe", "qwen3", "qwen3_5_moe_text",
    "qwen3_5_text", "qwen3_moe", "qwen3_next", "qwen4_exp_text", "recurrent_gemma", "rwkv", "seed_oss", "smollm3",
    "solar_open", "stablelm", "starcoder2", "trocr", "vaultgemma", "whisper", "xglm", "xlm", "xlnet", "xlstm",
    "youtu", "zaya",
)
# fmt: on
"""Model types. For each, a test compares the readout of a small random checkpoint with the logits that transformers
computes. Left out are types whose head is more than one matrix (BERT and its like), and models of text and images."""

FACTORS = {
    "logit_scale": ("cohere", "cohere2", "cohere2_moe"),
    "lm_head_multiplier": ("falcon_h1",),
    "logits_scaling": (
        *("granite", "granite_swa", "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared"),
        *("hyperclovax", "minicpm3"),
    ),
    "logits_mup_width_multiplier": ("inkling_text",),
    "final_logit_softcapping": (
        *("gemma2", "gemma3_text", "gemma4_text", "gemma4_unified_text", "nanochat", "vaultgemma"),
    ),
    "logits_soft_cap": ("recurrent_gemma",),
    "output_logit_soft_cap": ("xlstm",),
    "scale_decoder_outputs": (),
}
"""Keys that `divergences/scaling.py` applies -> the verified types that apply them too."""


def check_readout(path: Path) -> None:
    """For teachers that are not in transformers: hidden states can become logits by this folder's readout.

    A teacher in transformers is asked instead (`HfTeacher` compares the readout with its own logits). Loading one only
    to ask would take its whole memory beside vLLM's, so here the model type has to be one that was compared.

    Raises:
        ModelError: it was not.
    """
    config = AutoConfig.from_pretrained(path)
    architectures = list(config.architectures or [])
    if config.model_type not in VERIFIED:
        raise _refusal(path, f"its model type {config.model_type} is not one of {', '.join(VERIFIED)}")
    own = architecture(config.model_type)
    if architectures not in ([], [own]):
        raise _refusal(path, f"its architecture {', '.join(architectures)} is not {own}")
    for key, types in FACTORS.items():
        if getattr(config, key, None) is not None and config.model_type not in types:
            raise _refusal(path, f"its config.json has {key}, which {config.model_type} does not know")
    if getattr(config, "word_embed_proj_dim", config.hidden_size) != config.hidden_size:
        raise _refusal(path, "its word_embed_proj_dim is not its hidden_size")


def architecture(model_type: str) -> str:
    """The causal language model of that type in transformers."""
    found = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    return found if isinstance(found, str) else found[0]


def _refusal(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"teacher {path}: its readout is not verified ({reason}); use teacher.engine=hf teacher.transport=full"
    )
