"""Time of asking teachers (floor F2).

    seconds = tokens / replicas * (body + head) / (g F f) + exchange + batches overhead    at least: weights read once

`hidden` needs no LM head. The others project: vLLM, here or as a server, every token of a request, transformers the
completion's alone; 2 H V FLOPs each, and 12 bytes per logit are moved for its log-softmax and selection. Every sequence
is read once by each teacher that is asked about it; answers that were kept from former epochs are not counted on. An
engine takes as many sequences together as it may, whatever requests they came in: of such a batch is the overhead.
"""

from gkd_dist.planning.devices import Device
from gkd_dist.planning.sampling import exchange_s
from gkd_dist.planning.workload import TeacherLoad, Workload

_BYTES_PER_LOGIT = 12
"""Written, read for the normaliser, read for the selection, float32."""


def scoring_time(work: Workload, load: TeacherLoad, device: Device, replicas: int, group: int) -> float:
    """Seconds that one replica of this teacher works in a step."""
    sequences = work.batch_size * load.share
    share = max(min(1.0, sequences), sequences / replicas)
    achieved, prompt, completion = device.achieved.teacher, work.lengths.prompt, work.completion
    flops = group * device.flops_of(load.dtype) * achieved.compute
    bandwidth = group * device.memory_bytes_per_s * achieved.memory
    shape = load.shape
    tokens = prompt + completion
    seconds = shape.forward_flops(prompt, completion) / flops
    if load.transport != "hidden":
        projected = completion if load.engine == "hf" else tokens
        seconds += projected * (2 * shape.head_params / flops + _BYTES_PER_LOGIT * shape.vocab_size / bandwidth)
    seconds += tokens * exchange_s(shape, load.dtype_bytes, device, group)
    read_s = shape.weights_read(share * tokens) * load.dtype_bytes / bandwidth
    batches = max(1.0, share / load.max_concurrent)
    return max(share * seconds, read_s) + batches * achieved.overhead_s
