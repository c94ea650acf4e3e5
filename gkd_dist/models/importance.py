"""How much a causal language model changes when decoder layers are removed (floor F3).

The measure is the forward KL of the paper's objective, teacher = the full model, student = the same model without
the layers, averaged over completion tokens of a few short texts. Letters: B sequences, T token positions,
N scored tokens, V vocabulary, H hidden size.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gkd_dist.errors import ModelError
from gkd_dist.models.calibration import CalibrationText
from gkd_dist.models.layers import LayerStack

MAX_TEXT_TOKENS = 256
"""Longer calibration texts are cut here: ranking layers needs few tokens."""


@dataclass(frozen=True)
class EncodedTexts:
    """Calibration texts as one batch, padded on the right (a causal model never looks there)."""

    input_ids: torch.Tensor
    """[B, T] int64."""
    scored_mask: torch.Tensor
    """[B, T] bool: positions that predict a completion token; N of them."""


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[CalibrationText]) -> EncodedTexts:
    """Render with the chat template where there is one, else prompt and completion on two lines."""
    rows: list[tuple[list[int], list[int]]] = []
    for text in texts:
        if tokenizer.chat_template:
            turn = [{"role": "user", "content": text.prompt}]
            rendered = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
            prompt = tokenizer(rendered, add_special_tokens=False).input_ids
        else:
            prompt = tokenizer(text.prompt + "\n").input_ids
        completion = tokenizer(text.completion, add_special_tokens=False).input_ids
        rows.append((prompt, (prompt + completion)[:MAX_TEXT_TOKENS]))
    width = max((len(ids) for _, ids in rows), default=0)
    input_ids = torch.zeros(len(rows), width, dtype=torch.int64)
    scored_mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, (prompt, ids) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        # Position t predicts token t + 1.
        scored_mask[row, max(len(prompt) - 1, 0) : len(ids) - 1] = True
    if not scored_mask.any():
        raise ModelError("the calibration texts have no completion tokens to score; give longer completions")
    return EncodedTexts(input_ids, scored_mask)


class RemovalMeter:
    """Forward KL between a model and itself without some of its layers, nats per scored token.

    Removing layer i changes nothing before it, so the hidden states entering each layer are kept for the current
    set of removed layers (`rebase`) and one more removal (`also_without`) computes only what follows it.
    Calls must not overlap: layers of the model are patched while one runs.
    """

    def __init__(self, model: PreTrainedModel, texts: EncodedTexts) -> None:
        self._model = model
        self._texts = texts
        self._stack = LayerStack(model)
        self.num_layers = len(self._stack.layers)
        self._dropped: frozenset[int] = frozenset()
        with torch.no_grad():
            logits, self._entering = self._stack.trace(lambda: self._logits(model))
            log_probs = torch.log_softmax(logits.float(), dim=-1)
            self._probs = log_probs.exp()  # [N, V] float32
            self._negative_entropy = torch.linalg.vecdot(self._probs, log_probs)  # [N]

    def rebase(self, dropped: Collection[int]) -> float:
        """KL without `dropped`, the set that later calls of `also_without` add to."""
        self._dropped = frozenset(dropped)
        with torch.no_grad(), self._stack.bypass(self._dropped):
            logits, self._entering = self._stack.trace(lambda: self._logits(self._model))
            return self._kl(logits)

    def also_without(self, layer: int) -> float:
        """KL without the base set and `layer`."""
        bypassed = self._dropped.union(range(layer + 1))
        with torch.no_grad(), self._stack.bypass(bypassed, {layer: self._entering[layer]}):
            return self._kl(self._logits(self._model))

    def of(self, student: PreTrainedModel) -> float:
        """KL between the full model and `student`, a separate model with the same vocabulary."""
        with torch.no_grad():
            return self._kl(self._logits(student))

    def _kl(self, logits: torch.Tensor) -> float:
        """KL(P || Q) = sum p log p - sum p z + log sum exp z, mean over tokens; `logits` z: [N, V]."""
        z = logits.float()
        per_token = self._negative_entropy - torch.linalg.vecdot(self._probs, z) + torch.logsumexp(z, dim=-1)
        return float(per_token.mean())

    def _logits(self, model: PreTrainedModel) -> torch.Tensor:
        """[N, V]: only the scored rows pass through the LM head."""
        head = model.get_output_embeddings()
        mask = self._texts.scored_mask
        hook = head.register_forward_pre_hook(lambda _module, args: (args[0][mask],))
        try:
            logits: torch.Tensor = model(input_ids=self._texts.input_ids, use_cache=False).logits
        finally:
            hook.remove()
        return logits
