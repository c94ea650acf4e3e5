"""Where one learner rank sits among the others: what it needs to find them. Plain data, without torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RankSeat:
    """One of `size` ranks that meet at a TCP store on rank 0."""

    rank: int
    size: int
    host: str
    """Address of rank 0 that every rank can reach."""
    port: int
    setup_timeout_s: float
    """Until all ranks have met."""
    timeout_s: float
    """Of one exchange between ranks afterwards."""
    listener: int | None = None
    """At rank 0: descriptor of a socket that listens at `port` already; None opens one."""
