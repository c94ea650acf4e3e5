"""From a configuration to a job: data rendered, models found, everything checked before an engine starts (floor F5)."""

from gkd_dist.preparation.data import not_there
from gkd_dist.preparation.job import preflight, prepare
from gkd_dist.preparation.prepared import Data, PreparedJob

__all__ = ["Data", "PreparedJob", "not_there", "preflight", "prepare"]
