"""Time of writing completions (floor F2).

    prefill_s  = prompt FLOPs / (g F f)                                   at least: weights read once
    position_s = max((weights + n cache) / (g M m), n FLOPs / (g F f)) + exchange + overhead
    positions  = max(longest, sequences * mean / n)

n sequences are written at once, bounded by the engine, by KV memory and by what there is to write; g devices share a
replica, F and M are FLOP/s and bytes/s of one device, f and m the shares of them that samplers reach. One more position
of all n sequences reads all weights (of experts those that n tokens meet) and the cache as it is on average. Two
all-reduces a layer exchange the hidden states of tensor parallel devices. All times are of one replica.
"""

from dataclasses import dataclass

from gkd_dist.planning.devices import Device
from gkd_dist.planning.memory import room_for_sequences, sequence_cache_bytes
from gkd_dist.planning.shapes import ModelShape
from gkd_dist.planning.workload import Workload


@dataclass(frozen=True, slots=True)
class Sampling:
    """Of the student's sequences of one step."""

    seconds: float
    """That a replica works on its share of them."""
    latency_s: float
    """Until the last one is written."""
    concurrent: float
    """Most sequences that a replica writes at once."""
    at_once: float
    """That it writes at once in the mean."""
    prefill_s: float
    """Of a replica for one prompt."""
    bound: str
    """What the time of a position is spent on."""


NOTHING = Sampling(0.0, 0.0, 0.0, 0.0, 0.0, "nothing to write")


def sampling_time(work: Workload, device: Device, replicas: int, group: int) -> Sampling:
    """Of one step in which the student writes."""
    total = work.student_sequences
    if total == 0:
        return NOTHING
    share = max(1.0, total / replicas)
    # Where batches overlap, those that are not with the learner are with the samplers.
    waiting = share * max(1, work.max_staleness)
    concurrent = max(1.0, min(waiting, most_at_once(work, device, group)))
    lengths, shape = work.lengths, work.student
    exchange = exchange_s(shape, work.sampler_dtype_bytes, device, group)
    achieved = device.achieved.sampler
    flops = group * device.flops_of(work.sampler_dtype) * achieved.compute
    bandwidth = group * device.memory_bytes_per_s * achieved.memory
    prefill = shape.forward_flops(lengths.prompt, 0) / flops + lengths.prompt * exchange
    # A batch that is alone gets emptier while its short sequences end; one that is refilled stays as full as it is.
    positions = share * lengths.completion / concurrent
    latency_positions = max(lengths.longest, positions)
    alone = work.max_staleness == 0
    if alone:
        positions = latency_positions
    at_once = share * lengths.completion / positions if alone else concurrent
    position, bound = position_time(work, device, group, at_once)
    prefill_s = max(share * prefill, shape.weights_read(lengths.prompt) * work.sampler_dtype_bytes / bandwidth)
    return Sampling(
        seconds=prefill_s + positions * position,
        latency_s=prefill_s + latency_positions * position,
        concurrent=concurrent,
        at_once=at_once,
        prefill_s=prefill_s / share,
        bound=bound,
    )


def most_at_once(work: Workload, device: Device, group: int) -> float:
    """Sequences that the engine and the memory of a replica take."""
    return max(1.0, min(float(work.max_concurrent), room_for_sequences(work, device.memory_bytes, group)))


def position_time(work: Workload, device: Device, group: int, at_once: float) -> tuple[float, str]:
    """Seconds of one more position of so many sequences, and what they are spent on."""
    achieved, lengths, shape = device.achieved.sampler, work.lengths, work.student
    flops = group * device.flops_of(work.sampler_dtype) * achieved.compute
    bandwidth = group * device.memory_bytes_per_s * achieved.memory
    cache = sequence_cache_bytes(work, lengths.prompt + lengths.completion / 2)
    read_s = (shape.weights_read(at_once) * work.sampler_dtype_bytes + at_once * cache) / bandwidth
    compute_s = at_once * 2 * shape.active_params / flops
    exchange = exchange_s(shape, work.sampler_dtype_bytes, device, group)
    bound = "overhead" if achieved.overhead_s > max(read_s, compute_s) else "FLOP/s"
    if read_s >= max(compute_s, achieved.overhead_s):
        bound = "memory bandwidth"
    return max(read_s, compute_s) + at_once * exchange + achieved.overhead_s, bound


def exchange_s(shape: ModelShape, dtype_bytes: int, device: Device, group: int) -> float:
    """Of one token between tensor parallel devices: two all-reduces a layer, each 2 (g - 1) / g of the hidden state."""
    if group == 1:
        return 0.0
    moved = 2 * shape.num_layers * 2 * (group - 1) / group * shape.hidden_size * dtype_bytes
    return moved / device.links_between(group)
