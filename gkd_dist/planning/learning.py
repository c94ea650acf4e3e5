"""Time of one train step (floor F2).

    body      = 3 forward FLOPs (4 where activations are computed again, 2 with a frozen body) / (C F f)
    head      = 2 T V (3 d_s + d_t) / (C F f) + 22 T V bytes / (C M m)     (2 d_s + d_t with a frozen head)
    optimizer = bytes per trained parameter / (R M m)
    exchange  = 8 bytes per parameter, 4 per trained one and micro-batch over the link, where it is not hidden behind
                the body
    seconds   = max(body + head, exchange) + optimizer + overhead

R ranks, of which C compute: no more than there are sequences, since none is divided; T completion tokens, V vocabulary,
d_s and d_t hidden sizes (d_t is 0 where no readout of a teacher is used). The head's units are those of docs/loss.md;
22 bytes per logit are its elementwise passes for the JSD; where LoRA freezes body and head, the product of the head's
gradient is left out (divergences/chunked.py). FSDP2 gathers all float32 parameters forward and backward, 2 x 4 bytes,
and reduces the gradients of those that are trained, 4 bytes.
"""

import math
from dataclasses import dataclass

from gkd_dist.planning.devices import Device
from gkd_dist.planning.workload import Workload

_LOSS_BYTES_PER_LOGIT = 22
_GATHERED_BYTES = 8
_REDUCED_BYTES = 4


@dataclass(frozen=True, slots=True)
class Learning:
    """Seconds of one train step, by part."""

    body_s: float
    head_s: float
    exchange_s: float
    optimizer_s: float
    overhead_s: float

    @property
    def seconds(self) -> float:
        return max(self.body_s + self.head_s, self.exchange_s) + self.optimizer_s + self.overhead_s

    @property
    def bound(self) -> str:
        if self.exchange_s > self.body_s + self.head_s:
            return "link between ranks"
        parts = {"body": self.body_s, "loss head": self.head_s, "optimizer": self.optimizer_s}
        return max(parts, key=lambda part: parts[part])


def learning_time(work: Workload, device: Device, ranks: int) -> Learning:
    """Of a step on `ranks` devices, which share its sequences."""
    achieved, shape = device.achieved.learner, work.student
    computing = min(ranks, work.batch_size)
    flops = computing * device.flops_of(work.learner_dtype) * achieved.compute
    bandwidth = device.memory_bytes_per_s * achieved.memory
    passes = (2 if work.freezes_body else 3) + (1 if work.recomputes else 0)
    body = work.batch_size * passes * shape.forward_flops(work.lengths.prompt, work.completion)
    logits = work.trained_tokens * shape.vocab_size
    head_units = (2 if work.freezes_body else 3) * shape.hidden_size + work.head_widths
    exchange = 0.0
    if ranks > 1:
        rounds = math.ceil(work.read_tokens / computing / work.micro_batch_tokens)
        each = _GATHERED_BYTES * shape.num_params + _REDUCED_BYTES * work.trained_params
        exchange = rounds * each / device.links_between(ranks)
    return Learning(
        body_s=body / flops,
        head_s=2 * logits * head_units / flops + _LOSS_BYTES_PER_LOGIT * logits / (computing * bandwidth),
        exchange_s=exchange,
        optimizer_s=work.trained_params * work.optimizer_bytes / (ranks * bandwidth),
        overhead_s=achieved.overhead_s,
    )
