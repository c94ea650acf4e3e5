"""Buckets in Ray's object store are mapped by an actor's own children where they lie."""

import os
import subprocess
import sys

import numpy as np
import pytest
import ray

from gkd_dist.cluster.session import ray_session
from gkd_dist.config.ring import ClusterConfig
from gkd_dist.types import ByteArray
from gkd_dist.weights.manifest import digest
from gkd_dist.weights.shared_memory import SharedSegment

CHILD = """
import sys
from gkd_dist.weights.manifest import digest
from gkd_dist.weights.shared_memory import SharedBucket, map_bucket

print(digest(map_bucket(SharedBucket(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
"""


@pytest.mark.ray
def test_what_the_object_store_gave_is_not_copied_and_stays_while_it_is_held() -> None:
    class Receiver:  # a local class travels by value: actors cannot import this module
        """Holds buckets as a sampler does while its engine loads them."""

        def receive(self, *buckets: ByteArray) -> list[str]:
            """The files that were written for them."""
            self.segment = SharedSegment()
            self.segment.write(buckets)
            assert self.segment.copied_bytes == 0
            return os.listdir(self.segment.folder)

        def digests(self) -> list[str]:
            """What another process finds."""
            return [
                subprocess.run(
                    [sys.executable, "-c", CHILD, bucket.path, str(bucket.offset_bytes), str(bucket.num_bytes)],
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout.strip()
                for bucket in self.segment.buckets
            ]

    random = np.random.default_rng(0)
    buckets = [random.integers(0, 256, size, dtype=np.uint8) for size in (1 << 20, (1 << 20) + 64, 1024)]
    with ray_session(ClusterConfig(object_store_bytes=80_000_000)):
        receiver = ray.remote(num_cpus=0)(Receiver).remote()
        assert ray.get(receiver.receive.remote(*(ray.put(bucket) for bucket in buckets))) == []
        for _ in range(20):  # the store is full of others twice over
            ray.put(np.zeros(8_000_000, np.uint8))
        assert ray.get(receiver.digests.remote()) == [digest(bucket) for bucket in buckets]
