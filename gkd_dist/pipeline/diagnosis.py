"""What every part of a run is doing: for people who find one that stands still."""

from dataclasses import asdict
from typing import Any

from gkd_dist.fleet import Fleet
from gkd_dist.interfaces import Replicas
from gkd_dist.pipeline.ring import Ring

_NUM_EVENTS = 50


def diagnose(fleet: Fleet, ring: Ring | None) -> dict[str, Any]:
    """Plain data for JSON.

    Args:
        ring: the one that turns, or turned last; None before the first.
    """
    replicas = {role: _replicas(pool) for role, pool in fleet.pools.items()}
    return {**({} if ring is None else _ring(ring)), "replicas": replicas}


def _ring(ring: Ring) -> dict[str, Any]:
    return {
        "step": ring.progress.step,
        "max_steps": ring.plan.max_steps,
        "live_version": ring.intake.version,
        "in_flight": [
            {"row": row.index, "kind": row.kind, "attempt": row.attempt} for row in sorted(ring.intake.in_flight)
        ],
        "replay": {"student": ring.replay.num_student, "fixed": ring.replay.num_fixed, **ring.replay.counters},
        "last_checkpoint": ring.checkpointer.last_step if ring.checkpointer else None,
    }


def _replicas(pool: Replicas[Any]) -> dict[str, Any]:
    return {
        "target": pool.target,
        "states": dict(pool.states),
        "outstanding": pool.num_outstanding,
        "waiting": pool.num_waiting,
        "events": [asdict(event) for event in pool.events[-_NUM_EVENTS:]],
    }
