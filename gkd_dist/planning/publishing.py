"""Time of bringing a new policy version to the samplers (floor F2).

    gather  = 5 weight bytes / (H h)             float32 read, cast, written to shared memory, digested
    spread  = nodes weight bytes / (N n)         other nodes with samplers, which all read from the learner's
    load    = 2 weight bytes / (H h)             each sampler reads the shared copy into its model

The learner gathers; samplers of its own node get no bytes over the network (N, of which the share n is reached, is one
device's part of a node's links). H is the rate between a device and the memory of its node, because weights travel
through it; h is the share reached. Samplers decode on while weights spread, and stand still while they load.

Devices are taken to be filled node by node, the learner's first, then the samplers': the fewest nodes that read.
"""

import math
from dataclasses import dataclass

from gkd_dist.planning.devices import Device
from gkd_dist.planning.spreading import spread_s
from gkd_dist.planning.workload import Workload

_GATHER_COPIES = 5
"""Of the published bytes in bfloat16: float32 parameters read (2), cast and written (1 + 1), digested (1)."""
_LOAD_COPIES = 2


@dataclass(frozen=True, slots=True)
class Receivers:
    """Nodes with samplers."""

    beside: int
    """1 where samplers share the learner's node, else 0."""
    others: int

    @property
    def nodes(self) -> int:
        return self.beside + self.others

    @classmethod
    def of(cls, device: Device, sampler_devices: int, ranks: int) -> "Receivers":
        """Where so many devices of samplers follow those of the learner."""
        room = max(0, device.num_per_node - ranks)
        return cls(int(room > 0), math.ceil(max(0, sampler_devices - room) / device.num_per_node))


ONE_DEVICE = Receivers(1, 0)
"""All roles share it."""


@dataclass(frozen=True, slots=True)
class Publishing:
    """Seconds of one publication."""

    gather_s: float
    """That the learner takes."""
    spread_s: float
    """Until every node has it."""
    load_s: float
    """In which samplers stand still."""

    @property
    def deliver_s(self) -> float:
        """From the gathered weights until samplers hold them."""
        return self.spread_s + self.load_s

    @property
    def seconds(self) -> float:
        return self.gather_s + self.deliver_s


def publishing_time(work: Workload, device: Device, receivers: Receivers) -> Publishing:
    """Nothing where the student never writes: then nobody asks for its weights."""
    if work.student_fraction == 0:
        return Publishing(0.0, 0.0, 0.0)
    achieved = device.achieved.publish
    copied_s = work.published_bytes / (device.host_bytes_per_s * achieved.host)
    link = device.network_bytes_per_s * achieved.network
    each_s = achieved.overhead_s / 2
    return Publishing(
        gather_s=_GATHER_COPIES * copied_s + each_s,
        spread_s=spread_s(work.published_bytes, receivers.others, learner_bytes_per_s=link, reader_bytes_per_s=link),
        load_s=_LOAD_COPIES * copied_s + each_s,
    )
