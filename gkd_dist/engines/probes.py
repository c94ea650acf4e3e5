"""A transformers model asked about eight tokens: is what we make of its hidden states what it makes of them itself?"""

from typing import Any

import torch
from torch import Tensor

from gkd_dist.divergences.readout import Readout


@torch.no_grad()
def readout_error(model: Any, readout: Readout) -> float:
    """Largest difference of a logit, on eight tokens, between the model's own and `readout` of its last hidden states.

    Not a number where one of them is not. Infinite where sizes do not fit.

    Args:
        model: a causal or encoder-decoder language model of transformers, in evaluation mode.
        readout: over all V ids.
    """
    ids = probe_ids(model)
    if getattr(model.config, "is_encoder_decoder", False):
        own, hidden = _decoder_probe(model, ids)
    else:
        own = model(input_ids=ids, use_cache=False).logits
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    if hidden.shape[-1] != readout.hidden_size or own.shape[-1] != readout.vocabulary_size:
        return float("inf")
    return float((own.float() - readout.logits(hidden)).abs().max())


def _decoder_probe(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [1, 8, V] and the decoder's hidden states [1, 8, H], encoder and decoder both reading `ids`."""
    encoded = model.get_encoder()(input_ids=ids).last_hidden_state
    decoded = model.get_decoder()(input_ids=ids, encoder_hidden_states=encoded, use_cache=False)
    own = model(encoder_outputs=(encoded,), decoder_input_ids=ids, use_cache=False).logits
    return own, decoded.last_hidden_state


def probe_ids(model: Any) -> Tensor:
    """[1, 8] int64, on the model's device: ids that every vocabulary has."""
    return torch.arange(1, 9, device=model.device).unsqueeze(0) % int(model.get_input_embeddings().weight.shape[0])
