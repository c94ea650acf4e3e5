"""Which decoder layers to drop so that the model changes least (floor F3).

Removals interact: two neighbours that are cheap alone can be dear together, and another pair the reverse. Ranking
single removals ignores that. Here layers are dropped one by one (greedy), re-measured after each, and at the end each
dropped layer may change places with a kept one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gkd_dist.models.calibration import CALIBRATION, CalibrationText
from gkd_dist.models.importance import RemovalMeter, encode_texts

NUM_SWAP_CANDIDATES = 4
"""Only the kept layers that cost least alone may be swapped in."""
MIN_SWAP_GAIN = 0.01
"""A swap must lower the KL by this share of it; smaller gains are within the noise of a few hundred tokens."""
MAX_SWAPS = 4
"""Bounds the time; each swap costs about as much as measuring every layer once."""


class Meter(Protocol):
    """What the selection needs of `RemovalMeter`; costs are nats per token."""

    num_layers: int

    def rebase(self, dropped: Collection[int]) -> float: ...

    def also_without(self, layer: int) -> float: ...


@dataclass(frozen=True)
class LayerChoice:
    """Layers to drop, with what was measured on the way."""

    dropped: tuple[int, ...]
    """Ascending."""
    kl_nats: float
    """KL of the choice on the calibration texts."""
    single_kl_nats: tuple[float, ...]
    """KL when only this layer is dropped, by layer."""


def choose_layers_to_drop(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    num_layers: int,
    texts: Sequence[CalibrationText] = CALIBRATION,
) -> tuple[int, ...]:
    """The layers, ascending, without which `model` keeps `num_layers` layers and changes least on `texts`.

    Raises:
        ModelError: the model's layers are not one list, or `texts` hold nothing to score.
    """
    meter = RemovalMeter(model, encode_texts(tokenizer, texts))
    return select_layers(meter, meter.num_layers - num_layers).dropped


def select_layers(meter: Meter, num_dropped: int) -> LayerChoice:
    """Greedy removal, then swaps, under the costs of `meter`; 1 <= num_dropped < meter.num_layers."""
    meter.rebase(())
    single = tuple(meter.also_without(layer) for layer in range(meter.num_layers))
    dropped, kl_nats = _greedy(meter, single, num_dropped)
    for _ in range(MAX_SWAPS):
        better = _best_swap(meter, single, dropped, kl_nats)
        if better is None:
            break
        dropped, kl_nats = better
    return LayerChoice(tuple(sorted(dropped)), kl_nats, single)


def _greedy(meter: Meter, single: Sequence[float], num_dropped: int) -> tuple[frozenset[int], float]:
    """Drop the layer with the smallest further cost, `num_dropped` times.

    Further costs mostly grow as layers go, so a layer whose former cost already exceeds the best fresh one is not
    measured again (lazy greedy; Minoux 1978). That is a heuristic here: the KL is not submodular.
    """
    extra = list(single)
    dropped = frozenset([min(range(len(extra)), key=extra.__getitem__)])
    base = min(extra)
    while len(dropped) < num_dropped:
        base = meter.rebase(dropped)
        kept = [layer for layer in range(meter.num_layers) if layer not in dropped]
        fresh: set[int] = set()
        while (cheapest := min(kept, key=extra.__getitem__)) not in fresh:
            extra[cheapest] = meter.also_without(cheapest) - base
            fresh.add(cheapest)
        dropped |= {cheapest}
        base += extra[cheapest]
    return dropped, base


def _best_swap(
    meter: Meter, single: Sequence[float], dropped: frozenset[int], kl_nats: float
) -> tuple[frozenset[int], float] | None:
    """The best set that differs from `dropped` in one layer and is clearly cheaper than `kl_nats`; None if none is."""
    kept = [layer for layer in range(meter.num_layers) if layer not in dropped]
    candidates = sorted(kept, key=single.__getitem__)[:NUM_SWAP_CANDIDATES]
    best, best_set = kl_nats * (1 - MIN_SWAP_GAIN), None
    for returned in sorted(dropped):
        rest = dropped - {returned}
        meter.rebase(rest)
        for layer in candidates:
            cost = meter.also_without(layer)
            if cost < best:
                best, best_set = cost, rest | {layer}
    return None if best_set is None else (best_set, best)
