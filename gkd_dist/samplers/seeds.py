"""One random seed per sample, so that a sample does not depend on its neighbours in the batch."""

import zlib

from gkd_dist.types import SampleId


def sample_seed(seed: int, sample_id: SampleId) -> int:
    """A seed in [0, 2**31) from the run's seed and the sample's id; the run's name plays no part."""
    return zlib.crc32(f"{seed}/{sample_id.prompt_index}/{sample_id.repeat_index}".encode()) & 0x7FFFFFFF
