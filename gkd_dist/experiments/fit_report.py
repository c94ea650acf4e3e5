"""Files and text that a fit of Gaussians leaves."""

import csv
import json
from pathlib import Path

from gkd_dist.experiments.drawing import draw_fit
from gkd_dist.experiments.gaussian_fit import curves, fit
from gkd_dist.experiments.spec import GaussianFit
from gkd_dist.runs.documents import replace_file


def write_fit(title: str, spec: GaussianFit, folder: Path) -> list[str]:
    """Write results.csv, results.json and the picture below `folder`; returns what a person wants to read."""
    fitted = fit(spec)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"divergence": each.divergence, "mean": each.mean, "std": each.std, "nats": each.nats}
        | {f"mass_{number}": mass for number, mass in enumerate(each.masses)}
        for each in fitted
    ]
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    content = {"title": title, "mixture": spec.model_dump(exclude={"betas"}), "fits": rows}
    replace_file(folder / "results.json", json.dumps(content, indent=1) + "\n")
    files = draw_fit(title, curves(spec, fitted), fitted, folder / "fit")
    lines = [f"{'divergence':12} {'mean':>8} {'std':>8} {'nats':>8}  mass within one std of each mode"]
    for each in fitted:
        masses = " ".join(f"{mass:.3f}" for mass in each.masses)
        lines.append(f"{each.divergence:12} {each.mean:8.3f} {each.std:8.3f} {each.nats:8.4f}  {masses}")
    return [*lines, *(f"wrote {file}" for file in (folder / "results.csv", folder / "results.json", *files))]
