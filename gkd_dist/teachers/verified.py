"""Which teachers' readout we vouch for without loading the teacher."""

from pathlib import Path

from transformers import AutoConfig

from gkd_dist.errors import ModelError

VERIFIED = {
    "cohere": "CohereForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "granite": "GraniteForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "olmo": "OlmoForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "opt": "OPTForCausalLM",
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "stablelm": "StableLmForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
}
"""Model type -> architecture. For each, a unit test compares the readout of a small random checkpoint, tied and not,
with the logits that transformers computes."""

_FACTORS = {
    "logit_scale": ("cohere", "cohere2"),
    "logits_scaling": ("granite",),
    "final_logit_softcapping": ("gemma2", "gemma3_text"),
}
"""Keys that `Readout.of` applies -> the verified types that apply them too."""


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
    if architectures not in ([], [VERIFIED[config.model_type]]):
        raise _refusal(path, f"its architecture {', '.join(architectures)} is not {VERIFIED[config.model_type]}")
    for key, types in _FACTORS.items():
        if getattr(config, key, None) is not None and config.model_type not in types:
            raise _refusal(path, f"its config.json has {key}, which {config.model_type} does not know")
    if getattr(config, "word_embed_proj_dim", config.hidden_size) != config.hidden_size:
        raise _refusal(path, "its word_embed_proj_dim is not its hidden_size")


def _refusal(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"teacher {path}: its readout is not verified ({reason}); use teacher.engine=hf teacher.transport=full"
    )
