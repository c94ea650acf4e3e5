"""Checkpoints of a run on disk: whole or not at all, verified before use (floor F2)."""
