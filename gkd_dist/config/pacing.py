"""Rules between the sections that say how the ring turns: staleness, replicas and deadlines."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gkd_dist.config.models import SamplerConfig, TeacherConfig
    from gkd_dist.config.run import RunConfig


def pacing_problems(config: "RunConfig") -> list[str]:
    """What is wrong, one line each."""
    problems = []
    if config.mode == "sync" and config.max_staleness > 0:
        problems.append(
            f"replay.max_staleness: {config.max_staleness} needs mode=async, mode=sync trains on what the current "
            "weights wrote; set mode=async, or remove it"
        )
    if config.mode == "sync" and config.replay.max_uses > 1:
        problems.append(
            f"replay.max_uses: {config.replay.max_uses} needs mode=async, mode=sync trains on every sequence once; set "
            "mode=async, or remove it"
        )
    elif config.replay.max_uses > config.max_staleness + 1:
        problems.append(
            f"replay.max_uses: {config.replay.max_uses} can never be reached, a sequence may be used at "
            f"{config.max_staleness + 1} step(s) before it is too stale (replay.max_staleness {config.max_staleness}); "
            f"set replay.max_staleness to {config.replay.max_uses - 1} or more, or lower max_uses"
        )
    if config.replay.max_uses > 1 and not config.objective.may_use_student:
        problems.append(
            f"replay.max_uses: {config.replay.max_uses} is about sequences of the student, and no step asks for one "
            "(objective.student_fraction 0); remove it"
        )
    replicas: dict[str, SamplerConfig | TeacherConfig] = {"sampler": config.sampler}
    replicas |= {config.key_of(name): teacher for name, teacher in config.named_teachers.items()}
    for key, role in replicas.items():
        low, high = role.min_replicas, role.max_replicas
        if low is not None and high is not None and low > high:
            problems.append(
                f"{key}.min_replicas: {low} is above max_replicas ({high}); lower the first or raise the second"
            )
        elif low is not None and role.num_replicas < low:
            problems.append(
                f"{key}.num_replicas: {role.num_replicas} is below min_replicas ({low}); set it to {low} or more, or "
                "lower min_replicas"
            )
        elif high is not None and role.num_replicas > high:
            problems.append(
                f"{key}.num_replicas: {role.num_replicas} is above max_replicas ({high}); set it to {high} or less, or "
                "raise max_replicas"
            )
        bounds = [name for name in ("min_replicas", "max_replicas") if getattr(role, name) is not None]
        if bounds and config.cluster.mode == "local":
            problems.append(
                f"{key}.{bounds[0]}: replicas of cluster.mode=local are in one process and cannot be scaled; set "
                "cluster.mode=ray, or remove it"
            )
    supervision, timeout_s = config.supervision, config.cluster.request_timeout_s
    if supervision.stall_timeout_s <= timeout_s:
        problems.append(
            f"supervision.stall_timeout_s ({supervision.stall_timeout_s:g}) must be above cluster.request_timeout_s "
            f"({timeout_s:g}), or a request that may still be answered would end the run; raise the first or lower the "
            "second"
        )
    if supervision.hedge_after_s is not None and supervision.hedge_after_s >= timeout_s:
        problems.append(
            f"supervision.hedge_after_s ({supervision.hedge_after_s:g}) must be below cluster.request_timeout_s "
            f"({timeout_s:g}); lower it, or remove it"
        )
    if config.cluster.mode == "local":
        return problems  # the rest is about replicas that come and go
    if supervision.restart_backoff_s > supervision.max_restart_backoff_s:
        problems.append(
            f"supervision.restart_backoff_s ({supervision.restart_backoff_s:g}) is above max_restart_backoff_s "
            f"({supervision.max_restart_backoff_s:g}); lower the first or raise the second"
        )
    if supervision.role_loss_grace_s >= supervision.stall_timeout_s:
        problems.append(
            f"supervision.role_loss_grace_s ({supervision.role_loss_grace_s:g}) must be below stall_timeout_s "
            f"({supervision.stall_timeout_s:g}), or a role that is lost would count as a stall; lower the first or "
            "raise the second"
        )
    if supervision.probe_timeout_s >= supervision.probe_interval_s:
        problems.append(
            f"supervision.probe_timeout_s ({supervision.probe_timeout_s:g}) must be below probe_interval_s "
            f"({supervision.probe_interval_s:g}); lower it"
        )
    return problems
