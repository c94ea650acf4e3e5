"""What a role has to hold, and how many devices that takes (floor F2).

    sampler, teacher   weights + KV cache of one longest sequence (+ logits of a request, where log-probs are asked)
    learner            state per trained parameter + frozen weights + the head's gradient + teacher heads
                       + activations of one micro-batch + the loss's chunk

Weights, cache and states are divided by the devices that share them; teacher heads, chunks and activations are not.
Activations without recomputation: 34 bytes per token, layer and hidden number (Korthikanti et al., arXiv 2205.05198,
section 4.1, without attention scores), in float32 twice as much; with it, the layers' inputs and one layer.
"""

from collections.abc import Callable

from gkd_dist.planning.workload import TeacherLoad, Workload

USABLE = 0.9
"""Of a device's memory: vLLM's own `gpu_memory_utilization`, and what an allocator loses."""
_ACTIVATION_BYTES = 34
_LOSS_BYTES = 6 << 30
"""The learner's default on a GPU."""
_LOGIT_ROWS = 1024
"""Rows of logits at once behind prompt log-probs, in float32 with a copy."""
LARGEST_GROUP = 64
"""Devices of one replica."""


def sampler_bytes(work: Workload, group: int) -> float:
    """Per device of a replica, with room for one longest sequence."""
    return (work.student.num_params * work.sampler_dtype_bytes + sequence_cache_bytes(work, work.max_model_len)) / group


def sequence_cache_bytes(work: Workload, length: float) -> float:
    """KV cache of one sequence."""
    return work.student.cached_numbers * work.sampler_dtype_bytes * length


def room_for_sequences(work: Workload, memory_bytes: float, group: int) -> float:
    """How many sequences of mean final length the KV cache of a replica takes, at least 1."""
    free = USABLE * memory_bytes * group - work.student.num_params * work.sampler_dtype_bytes
    each = sequence_cache_bytes(work, work.lengths.prompt + work.lengths.completion)
    return max(1.0, free / each) if each else float(work.max_concurrent)


def teacher_bytes(load: TeacherLoad, group: int) -> float:
    """Per device of a replica. A teacher behind a server holds nothing here."""
    if load.engine == "server":
        return 0.0
    shape = load.shape
    cache = shape.cached_numbers * load.dtype_bytes * load.max_model_len
    logits = 0.0 if load.transport == "hidden" else 8.0 * _LOGIT_ROWS * shape.vocab_size
    return (shape.num_params * load.dtype_bytes + cache) / group + logits


def learner_bytes(work: Workload, ranks: int, loss_bytes: float = _LOSS_BYTES) -> float:
    """Per rank."""
    student = work.student
    held = work.trained_params * work.state_bytes
    frozen = student.num_params * 4 if work.freezes_body else 0.0
    heads = sum(each.shape.head_params * 2 for each in work.teachers if each.transport == "hidden")
    width = 1 if work.learner_dtype == "bfloat16" else 2
    per_layer = _ACTIVATION_BYTES * width * student.hidden_size
    layers = student.num_layers
    kept = layers * 2 * width * student.hidden_size + per_layer if work.recomputes else layers * per_layer
    # FSDP gathers one layer at a time, in float32, and the head, whose gradient, if it has one, is whole until reduced.
    head = (4 if work.freezes_body else 8) * student.head_params
    gathered = head + 4 * student.dense_params / layers if ranks > 1 else 0.0
    loss = min(work.loss_memory_bytes or loss_bytes, work.micro_batch_tokens * student.vocab_size * 8.0)
    return (held + frozen) / ranks + gathered + heads + work.micro_batch_tokens * kept + loss


def smallest_group(need: Callable[[int], float], memory_bytes: float, *, splits: bool = True) -> int | None:
    """Fewest devices (a power of two) on which `need` per device fits; None where none does."""
    group = 1
    while group <= LARGEST_GROUP:
        if need(group) <= USABLE * memory_bytes:
            return group
        if not splits:
            return None
        group *= 2
    return None
