"""Which publications a sampler takes: of its learner or a later start, not older than what it has, for its model."""

from collections.abc import Mapping

from gkd_dist.errors import WeightsError
from gkd_dist.types import WeightManifest

_NUM_SHOWN = 3


class Subscription:
    """The policy a sampler follows; `check` before anything is copied, `accept` once all of it is in place.

    Args:
        shapes: every parameter of the sampler's model under its checkpoint name, tied ones once.
        version: policy version of the weights the sampler starts with.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], version: int) -> None:
        self._shapes = dict(shapes)
        self._run_epoch: str | None = None
        self.version = version

    @property
    def weights(self) -> str:
        """Names the weights that are loaded: no other start of the learner and no other version has the same name."""
        return f"{self._run_epoch}/{self.version}"

    def check(self, manifest: WeightManifest) -> None:
        """Raise WeightsError for an earlier start's, an older, or another model's publication.

        A learner that starts later, with a greater run epoch, goes on from a checkpoint: its versions may be lower.
        """
        own, offered = self._run_epoch, manifest.run_epoch
        if own is not None and offered < own:
            raise WeightsError(
                f"version {manifest.version} comes from learner start {offered}, this sampler follows the later {own}; "
                "end the former learner"
            )
        if own in (None, offered) and manifest.version < self.version:
            raise WeightsError(f"version {manifest.version} is older than version {self.version}, which is loaded")
        found = {entry.name: entry.shape for entry in manifest.tensors}
        if differences := _differences(self._shapes, found):
            raise WeightsError(f"version {manifest.version} does not match this student: {differences}")

    def accept(self, manifest: WeightManifest) -> None:
        """From here on the sampler has this version, and follows this start of the learner, or later ones."""
        self._run_epoch = manifest.run_epoch
        self.version = manifest.version


def _differences(own: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """The first differences in words; empty when there are none."""
    reshaped = [
        f"{name} {found[name]}, not {own[name]}" for name in sorted(own.keys() & found) if own[name] != found[name]
    ]
    kinds = {
        "missing": sorted(own.keys() - found),
        "unknown": sorted(found.keys() - own),
        "other shapes": reshaped,
    }
    return ", ".join(f"{kind} {names[:_NUM_SHOWN]}" for kind, names in kinds.items() if names)
