"""What `gkd run` does, from a configuration to an exit code (floor F5)."""

from gkd_dist.distillation.command import run

__all__ = ["run"]
