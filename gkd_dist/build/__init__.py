"""From a checked configuration to engines: the only place that chooses implementations (floor F5)."""

from gkd_dist.build.blueprint import Blueprint

__all__ = ["Blueprint"]
