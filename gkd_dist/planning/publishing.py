"""Time and bytes of bringing a new policy version to the samplers (floor F2).

    gather  = 5 weight bytes / (H h)                   float32 read, cast, written to shared memory, digested
    spread  = ceil(log2(nodes + 1)) weight bytes / (N n)   every node that has a copy serves others
    load    = 2 weight bytes / (H h)                   each sampler reads the shared copy into its model

The learner gathers; samplers of its own node get no bytes over the network (N, of which the share n is reached). H is
the rate between a device and the memory of its node, because weights travel through it; h is the share reached.
"""

import math
from dataclasses import dataclass

from gkd_dist.planning.devices import Device
from gkd_dist.planning.workload import Workload

_GATHER_COPIES = 5
"""Of the published bytes in bfloat16: float32 parameters read (2), cast and written (1 + 1), digested (1)."""
_LOAD_COPIES = 2


@dataclass(frozen=True, slots=True)
class Publishing:
    """Seconds of one publication."""

    gather_s: float
    """That the learner takes."""
    deliver_s: float
    """That follows until samplers hold it."""

    @property
    def seconds(self) -> float:
        return self.gather_s + self.deliver_s


def publishing_time(work: Workload, device: Device, sampler_devices: int) -> Publishing:
    """Nothing where the student never writes: then nobody asks for its weights."""
    if work.student_fraction == 0:
        return Publishing(0.0, 0.0)
    achieved = device.achieved.publish
    copied_s = work.published_bytes / (device.host_bytes_per_s * achieved.host)
    nodes = math.ceil(sampler_devices / device.num_per_node)
    hops = math.ceil(math.log2(nodes + 1)) if sampler_devices > 1 else 0
    spread_s = hops * work.published_bytes / (device.network_bytes_per_s * achieved.network)
    each_s = achieved.overhead_s / 2
    return Publishing(_GATHER_COPIES * copied_s + each_s, _LOAD_COPIES * copied_s + spread_s + each_s)
