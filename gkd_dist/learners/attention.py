"""Attention over packed sequences, one after the other: products grow with the squares of their lengths alone.

transformers keeps packed sequences apart by a mask over the whole row, and then multiplies what the mask hides. Here
the model's own eager attention sees each sequence alone, with its part of that mask (causal, sliding, whatever it
is). The mask itself is still made, T * T * 4 bytes for a row of T tokens (16 MiB for 2048).
Used where the fused attention is no gain: on CPU.
"""

import sys
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

NAME = "gkd_sequences"
_EAGER = "eager_attention_forward"


def attend_by_sequence(model: PreTrainedModel) -> bool:
    """Make an eager `model` use this attention; False where its architecture has no exchangeable one.

    Without `cu_seq_lens_q` it is the eager attention itself.
    """
    if not all(hasattr(sys.modules[kind.__module__], _EAGER) for kind in _attentions(model)):
        return False
    AttentionInterface.register(NAME, _sequences)
    AttentionMaskInterface.register(NAME, eager_mask)
    try:
        model.set_attn_implementation(NAME)
    except ValueError:
        return False
    return bool(model.config._attn_implementation == NAME)


def _attentions(model: PreTrainedModel) -> set[type]:
    return {type(module) for module in model.modules() if type(module).__name__.endswith("Attention")}


def _sequences(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """As transformers calls it: query [1, heads, T, d], mask [1, 1, T, T]; returns [1, T, heads, d].

    Args:
        cu_seq_lens_q: [B + 1] where the sequences begin and end; None for a padded batch.
    """
    eager = getattr(sys.modules[type(module).__module__], _EAGER)
    if cu_seq_lens_q is None or attention_mask is None:
        return eager(module, query, key, value, attention_mask, **kwargs)
    ends = cu_seq_lens_q.tolist()
    spans = [slice(*pair) for pair in pairwise(ends)]
    lengths = [span.stop - span.start for span in spans]
    parts = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), spans, strict=True)
    outputs = [eager(module, q, k, v, attention_mask[:, :, span, span], **kwargs)[0] for q, k, v, span in parts]
    return torch.cat(outputs, 1), None
