"""What every part of a ring is doing: for people who find a run that stands still."""

from dataclasses import asdict
from typing import Any

from gkd_dist.interfaces import Replicas
from gkd_dist.pipeline.ring import Ring

_NUM_EVENTS = 50


def diagnose(ring: Ring) -> dict[str, Any]:
    """Plain data for JSON."""
    pools: dict[str, Replicas[Any]] = {"sampler": ring.fleet.samplers}
    pools |= {f"teacher {name}": pool for name, pool in ring.fleet.teachers.items()}
    return {
        "step": ring.progress.step,
        "max_steps": ring.plan.max_steps,
        "live_version": ring.intake.version,
        "in_flight": [
            {"row": row.index, "kind": row.kind, "attempt": row.attempt} for row in sorted(ring.intake.in_flight)
        ],
        "replay": {"student": ring.replay.num_student, "fixed": ring.replay.num_fixed, **ring.replay.counters},
        "last_checkpoint": ring.checkpointer.last_step if ring.checkpointer else None,
        "replicas": {role: _replicas(pool) for role, pool in pools.items()},
    }


def _replicas(pool: Replicas[Any]) -> dict[str, Any]:
    return {
        "target": pool.target,
        "states": dict(pool.states),
        "outstanding": pool.num_outstanding,
        "events": [asdict(event) for event in pool.events[-_NUM_EVENTS:]],
    }
