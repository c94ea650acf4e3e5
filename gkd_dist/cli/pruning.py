"""What `gkd prune` does, from its arguments to an exit code (floor F5)."""

import sys
from pathlib import Path

from gkd_dist.metrics.console import print_table


def prune(model: str, output: Path, num_layers: int, drop_layers: tuple[int, ...] | None) -> int:
    """Make a student by dropping decoder layers of `model`; returns 0.

    Raises:
        ModelError: no such model, numbers that do not fit it, or `output` is taken.
    """
    from gkd_dist.models.folders import default_cache_dir, require_free
    from gkd_dist.models.packaged import materialise
    from gkd_dist.models.pruning import prune as prune_model

    require_free(output)
    report = prune_model(materialise(model, default_cache_dir()), output, num_layers, drop_layers)
    rows = []
    for layer in sorted(report.dropped + report.kept):
        alone = f"{report.single_kl_nats[layer]:.3f}" if report.single_kl_nats else "-"
        rows.append([str(layer), alone, "dropped" if layer in report.dropped else "kept"])
    print_table(sys.stdout, model, ["layer", "KL without it (nats/token)", ""], rows)
    print(f"forward KL to the full model: {report.kl_nats:.3f} nats/token on held-out texts")
    print(f"parameters: {report.num_parameters / 1e6:.1f} million; {report.seconds:.0f} s; saved in {output}")
    return 0
