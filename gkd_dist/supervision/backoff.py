"""Waiting longer and longer before the next try."""

from gkd_dist.config.supervision import SupervisionConfig


def backoff_s(rules: SupervisionConfig, attempt: int) -> float:
    """Seconds before try number `attempt` >= 1: doubles each time up to the limit."""
    doublings = min(attempt - 1, 60)  # beyond that, the power alone would overflow
    return float(min(rules.max_restart_backoff_s, rules.restart_backoff_s * 2**doublings))
