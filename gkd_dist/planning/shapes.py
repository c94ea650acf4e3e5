"""Sizes of a model, from its config.json or from a name such as 8B or 30B-A3B (floor F2).

Notation: H hidden size, I intermediate size, A = heads * head size, G = key/value heads * head size. Parameters of a
decoder layer: attention H A (queries) + 2 H G (keys, values) + A H (output); MLP 3 H I where it is gated, else 2 H I.
Of a mixture of experts only the chosen experts (and those that are shared) are active. Biases and norms are left out:
below a thousandth of the rest.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gkd_dist.errors import ModelError

_SIZE = re.compile(r"(?P<all>[0-9]+(?:\.[0-9]+)?)(?P<unit>[MBT])(?:-A(?P<active>[0-9]+(?:\.[0-9]+)?)(?P<of>[MB]))?")
_UNITS = {"M": 1e6, "B": 1e9, "T": 1e12}
_UNGATED = frozenset({"bloom", "falcon", "gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "phi"})
"""Model types whose MLP has two matrices."""
ASSUMED_VOCABULARY = 151_936
"""Of a model that is given by its size alone: that of Qwen3."""
_ASSUMED_ASPECT = 96
"""Hidden size per layer of a model that is given by its size alone: between 73 (1.7B) and 114 (8B) of Qwen3."""
_ASSUMED_EXPERTS = (128, 8)
"""Held and chosen, likewise: Qwen3-30B-A3B."""
_TIED_BELOW = 5e9
_HEAD_SIZE, _CACHED_HEADS = 128, 8


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What planning has to know of a model."""

    name: str
    hidden_size: int
    vocab_size: int
    num_layers: int
    """Of the decoder."""
    prompt_params: float
    """In matrices that a prompt token passes: 2 FLOPs each."""
    completion_params: float
    """Likewise of a completion token, the LM head left out; differs from `prompt_params` in encoder-decoders alone."""
    expert_params: float
    """Of all routed experts together, held in memory; 0 in dense models."""
    num_experts: int
    experts_per_token: int
    attention_width: float
    """Sum of A over the layers: one pair of positions costs 4 FLOPs for each of it."""
    cached_numbers: float
    """Numbers that the KV cache keeps of one token."""
    tied: bool
    """Whether embedding and LM head are one matrix."""
    reads_apart: bool = False
    """Encoder-decoders: what a prompt passes is held beside what a completion passes."""

    @property
    def head_params(self) -> float:
        return float(self.vocab_size) * self.hidden_size

    @property
    def dense_params(self) -> float:
        """Held, outside of routed experts and of what the vocabulary takes."""
        body = self.completion_params + (self.prompt_params if self.reads_apart else 0.0)
        return body - self.active_expert_params

    @property
    def active_expert_params(self) -> float:
        return self.expert_params * self.experts_per_token / self.num_experts if self.num_experts else 0.0

    @property
    def num_params(self) -> float:
        """All that is held."""
        return self.dense_params + self.expert_params + self.head_params * (1 if self.tied else 2)

    @property
    def active_params(self) -> float:
        """What one completion token passes, LM head included."""
        return self.completion_params + self.head_params

    def weights_read(self, num_tokens: float) -> float:
        """Parameters that a forward over so many tokens reads, LM head included; embeddings are looked up.

        Of E experts, k chosen per token, a batch of n tokens meets E (1 - (1 - k / E) ** n) where the choice is even.
        """
        dense = self.completion_params - self.active_expert_params + self.head_params
        if not self.num_experts:
            return dense
        met: float = 1 - (1 - self.experts_per_token / self.num_experts) ** num_tokens
        return dense + self.expert_params * met

    def forward_flops(self, prompt: float, completion: float) -> float:
        """Of one sequence through the body, without the LM head: matrices, and causal attention over all positions."""
        length = prompt + completion
        matrices = 2 * (self.prompt_params * prompt + self.completion_params * completion)
        return matrices + 2 * self.attention_width * length * length

    def pruned(self, num_layers: int) -> "ModelShape":
        """With so many layers of the same kind."""
        share = num_layers / self.num_layers
        return replace(
            self,
            name=f"{self.name}, {num_layers} layers",
            num_layers=num_layers,
            prompt_params=self.prompt_params * share,
            completion_params=self.completion_params * share,
            expert_params=self.expert_params * share,
            attention_width=self.attention_width * share,
            cached_numbers=self.cached_numbers * share,
        )


def shape_of_size(size: str, vocab_size: int | None = None) -> ModelShape:
    """A model of so many parameters, its proportions assumed: `1.7B`, or `30B-A3B` of which 3B are active.

    Args:
        vocab_size: None assumes `ASSUMED_VOCABULARY`.

    Raises:
        ModelError: no such size, or one that the vocabulary leaves no room in.
    """
    vocabulary = vocab_size or ASSUMED_VOCABULARY
    found = _SIZE.fullmatch(size.upper())
    total = float(found["all"]) * _UNITS[found["unit"]] if found else 0.0
    active = float(found["active"]) * _UNITS[found["of"]] if found and found["active"] else total
    if total <= 0 or not 0 < active <= total:
        raise ModelError(f"{size!r} is no size of a model; write 1.7B, or 30B-A3B where 3B parameters are active")
    layers = max(1, round((active / (12 * _ASSUMED_ASPECT**2)) ** (1 / 3)))
    hidden = max(64, round(_ASSUMED_ASPECT * layers / 64) * 64)
    tied = total < _TIED_BELOW
    copies = 1 if tied else 2
    widest = int(active / 2 / (copies * vocabulary)) // 64 * 64
    if hidden > widest:
        # Small models are mostly vocabulary: narrower and deeper, until half of them is layers.
        if widest < 64:
            raise ModelError(
                f"{size!r} is too small for a vocabulary of {vocabulary:,}, which takes "
                f"{copies * vocabulary * 64 / 1e6:.3g} million parameters at a width of 64; "
                "give the model a folder with its config.json instead"
            )
        hidden = widest
        layers = max(1, round((active - copies * vocabulary * hidden) / (12 * hidden**2)))
    heads = vocabulary * hidden * copies
    body_all, body_active = total - heads, active - heads
    num_experts, chosen = _ASSUMED_EXPERTS if active < total else (0, 0)
    experts = (body_all - body_active) / (1 - chosen / num_experts) if num_experts else 0.0
    heads_cached = min(_CACHED_HEADS, max(1, hidden // _HEAD_SIZE))
    return ModelShape(
        name=size.upper(),
        hidden_size=hidden,
        vocab_size=vocabulary,
        num_layers=layers,
        prompt_params=body_active,
        completion_params=body_active,
        expert_params=experts,
        num_experts=num_experts,
        experts_per_token=chosen,
        attention_width=float(layers * hidden),
        cached_numbers=2.0 * layers * heads_cached * _HEAD_SIZE,
        tied=tied,
    )


def shape_of_config(config: Mapping[str, Any], name: str) -> ModelShape:
    """Of a model's configuration in transformers: the content of config.json.

    Raises:
        ModelError: it lacks sizes.
    """
    text = config.get("text_config")
    tree: Mapping[str, Any] = {**config, **text} if isinstance(text, Mapping) else config
    if tree.get("is_encoder_decoder"):
        return _encoder_decoder(tree, name)
    hidden, layers = _need(tree, name, "hidden_size", "n_embd", "d_model"), _num_layers(tree, name)
    attention, width, cached = _attention(tree, hidden, name)
    dense, routed, shared, experts, chosen, sparse_layers = _mlp(tree, hidden, layers, name)
    body = layers * attention + (layers - sparse_layers) * dense + sparse_layers * shared
    active = body + (sparse_layers * routed * chosen / experts if experts else 0.0)
    return ModelShape(
        name=name,
        hidden_size=hidden,
        vocab_size=_need(tree, name, "vocab_size"),
        num_layers=layers,
        prompt_params=active,
        completion_params=active,
        expert_params=float(sparse_layers * routed),
        num_experts=experts,
        experts_per_token=chosen,
        attention_width=float(layers * width),
        cached_numbers=float(layers * cached),
        tied=bool(tree.get("tie_word_embeddings", True)),
    )


def _attention(tree: Mapping[str, Any], hidden: int, name: str) -> tuple[float, float, float]:
    """Parameters, A, and cached numbers of one layer."""
    heads = _need(tree, name, "num_attention_heads", "n_head", "num_heads")
    if rank := tree.get("kv_lora_rank"):  # multi-head latent attention (DeepSeek-V2, arXiv 2405.04434)
        rope, nope = tree.get("qk_rope_head_dim", 64), tree.get("qk_nope_head_dim", 128)
        value = tree.get("v_head_dim", nope)
        query = heads * (nope + rope)
        q_rank = tree.get("q_lora_rank")
        params = (hidden + query) * q_rank if q_rank else hidden * query
        params += hidden * (rank + rope) + rank * heads * (nope + value) + heads * value * hidden
        return params, heads * (nope + rope + value) / 2, rank + rope
    size = tree.get("head_dim") or hidden // heads
    cached = tree.get("num_key_value_heads") or (1 if tree.get("multi_query") else heads)
    return 2 * hidden * heads * size + 2 * hidden * cached * size, heads * size, 2 * cached * size


def _mlp(tree: Mapping[str, Any], hidden: int, layers: int, name: str) -> tuple[float, float, float, int, int, int]:
    """Of one layer: dense, all routed experts, what all tokens pass in a sparse one; experts held, chosen; sparse
    layers."""
    matrices = 2 if tree.get("model_type") in _UNGATED else 3
    inner = next((tree[key] for key in ("intermediate_size", "n_inner", "ffn_dim") if tree.get(key)), 4 * hidden)
    dense = matrices * hidden * inner
    experts = next((tree[key] for key in ("num_experts", "num_local_experts", "n_routed_experts") if tree.get(key)), 0)
    if not experts:
        return dense, 0.0, 0.0, 0, 0, 0
    chosen = _need(tree, name, "num_experts_per_tok", "num_experts_per_token", "moe_top_k")
    one = matrices * hidden * (tree.get("moe_intermediate_size") or inner)
    shared = one * (tree.get("n_shared_experts") or 0) + hidden * experts
    shared += matrices * hidden * (tree.get("shared_expert_intermediate_size") or 0)
    first = tree.get("first_k_dense_replace") or 0
    step = tree.get("decoder_sparse_step") or tree.get("moe_layer_freq") or 1
    step = step if isinstance(step, int) else 1
    only = set(tree.get("mlp_only_layers") or ())
    sparse = [layer for layer in range(first, layers) if (layer + 1) % step == 0 and layer not in only]
    return dense, experts * one, shared, experts, chosen, len(sparse)


def _encoder_decoder(tree: Mapping[str, Any], name: str) -> ModelShape:
    """As T5: the prompt passes the encoder, and keys and values of it are kept for every decoder layer."""
    hidden, heads = _need(tree, name, "d_model"), _need(tree, name, "num_heads", "decoder_attention_heads")
    inner = heads * (tree.get("d_kv") or hidden // heads)
    gated = "gated" in str(tree.get("feed_forward_proj", ""))
    mlp = (3 if gated else 2) * hidden * _need(tree, name, "d_ff", "decoder_ffn_dim")
    encoders = _need(tree, name, "num_layers", "encoder_layers")
    decoders = tree.get("num_decoder_layers") or tree.get("decoder_layers") or encoders
    return ModelShape(
        name=name,
        hidden_size=hidden,
        vocab_size=_need(tree, name, "vocab_size"),
        num_layers=decoders,
        prompt_params=float(encoders * (4 * hidden * inner + mlp) + decoders * 2 * hidden * inner),
        completion_params=float(decoders * (6 * hidden * inner + mlp)),
        expert_params=0.0,
        num_experts=0,
        experts_per_token=0,
        attention_width=float(decoders * inner),
        cached_numbers=2.0 * decoders * inner,
        tied=bool(tree.get("tie_word_embeddings", True)),
        reads_apart=True,
    )


def _num_layers(tree: Mapping[str, Any], name: str) -> int:
    return _need(tree, name, "num_hidden_layers", "n_layer", "num_layers")


def _need(tree: Mapping[str, Any], name: str, *keys: str) -> int:
    for key in keys:
        value = tree.get(key)
        if isinstance(value, int) and value > 0:
            return value
    raise ModelError(f"{name}: its config.json has no {keys[0]}; give the model's size instead, such as 8B")
