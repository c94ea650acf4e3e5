"""What `gkd validate` checks beyond the configuration (floor F5)."""

from gkd_dist.config.run import RunConfig
from gkd_dist.preparation import preflight as check_without_models
from gkd_dist.reporting import describe


def preflight(config: RunConfig) -> list[str]:
    """Check data, tokenizers and their fit, as far as no model has to be converted; lines that say what was found."""
    data, job, left = check_without_models(config)
    return describe(job) if job is not None else [f"data: {data.rows}", *left]
