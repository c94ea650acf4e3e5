"""A transformers model asked about eight tokens: is what we make of its hidden states what it makes of them itself?"""

from typing import Any

import torch
from torch import Tensor

from gkd_dist.divergences.readout import Readout
from gkd_dist.engines.families import Family


@torch.no_grad()
def readout_error(model: Any, readout: Readout, family: Family) -> float:
    """Largest difference of a logit, on eight tokens, between the model's own and `readout` of its last hidden states.

    Not a number where one of them is not. Infinite where sizes do not fit.

    Args:
        model: a language model of transformers, in evaluation mode.
        readout: over all V ids.
        family: the model's.
    """
    inputs = family.reading(probe_ids(model))
    own = model(**inputs, use_cache=False).logits
    hidden = family.states(model, **inputs)
    if hidden.shape[-1] != readout.hidden_size or own.shape[-1] != readout.vocabulary_size:
        return float("inf")
    return float((own.float() - readout.logits(hidden)).abs().max())


def probe_ids(model: Any) -> Tensor:
    """[1, 8] int64, on the model's device: ids that every vocabulary has."""
    return torch.arange(1, 9, device=model.device).unsqueeze(0) % int(model.get_input_embeddings().weight.shape[0])
