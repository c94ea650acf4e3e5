"""How long new weights are on their way from the learner to all who read them (floor F2).

    direct   = bytes max(readers / learner's link, 1 / reader's link)         all read from the learner at once
    tree     = f bytes / link (1 + (depth - 1) / pieces)                      each sends to f others, piece by piece

The product reads directly: every node gets the buckets from the object store of the learner's node. Ray may copy from
a node that has them already; how often has not been measured, and is not counted on. The tree is not built.
"""

import math


def spread_s(
    num_bytes: float,
    num_readers: int,
    *,
    learner_bytes_per_s: float,
    reader_bytes_per_s: float,
    fan_out: int = 0,
    num_pieces: int = 1,
) -> float:
    """Seconds until the last of `num_readers` has all of it.

    Args:
        fan_out: 0, or of a tree.
        num_pieces: in a tree; a node sends one on before it has the next.
    """
    if num_readers < 1:
        return 0.0
    if not fan_out:
        return num_bytes * max(num_readers / learner_bytes_per_s, 1 / reader_bytes_per_s)
    hop_s = fan_out * num_bytes / min(learner_bytes_per_s, reader_bytes_per_s)
    return hop_s * (1 + (depth_of(num_readers - 1, fan_out) - 1) / num_pieces)


def depth_of(place: int, fan_out: int) -> int:
    """Hops from the root to the node at `place`, counted from 0 without the root, of a tree that is filled level by
    level."""
    if fan_out == 1:
        return place + 1
    return math.ceil(math.log((place + 1) * (fan_out - 1) / fan_out + 1, fan_out) - 1e-9)
