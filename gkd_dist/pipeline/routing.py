"""Who scores which sample."""

from collections.abc import Callable, Collection

from gkd_dist.types import SampleId

TeachersOf = Callable[[SampleId], Collection[str]]
"""Names of the teachers that score a sample, at least one; a pure function."""
