"""Writes what is generated from the catalogue: rules, dashboard, reference page (floor F2).

python -m gkd_dist.metrics.monitoring                         into the working directory, a checkout
python -m gkd_dist.metrics.monitoring --check                 writes nothing; exit code 1 where a file differs
python -m gkd_dist.metrics.monitoring --runbooks=URL/ FOLDER  links of alerts begin with URL/
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from gkd_dist.metrics.grafana import dashboard
from gkd_dist.metrics.reference import reference
from gkd_dist.metrics.rules import rule_groups

_NOTE = "# Generated from gkd_dist/metrics/rules.py by `make monitoring`; rules_test.yml has the tests of each alert.\n"
_RULE_OBJECT = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "PrometheusRule",
    "metadata": {"name": "gkd", "labels": {"app.kubernetes.io/part-of": "gkd"}},
}
"""For the Prometheus operator, but for its spec."""


def files(runbooks: str = "") -> dict[str, str]:
    """Every generated file by its path in the repository.

    Args:
        runbooks: see `rule_groups`.
    """
    groups = rule_groups(runbooks)
    return {
        "deploy/monitoring/rules.yml": _NOTE + _yaml(groups),
        "deploy/kuberay/base/prometheus-rule.yaml": _NOTE + _yaml({**_RULE_OBJECT, "spec": groups}),
        "deploy/monitoring/dashboard.json": json.dumps(dashboard(), indent=1) + "\n",
        "docs/metrics.md": reference(),
    }


def _yaml(tree: dict[str, object]) -> str:
    return yaml.safe_dump(tree, sort_keys=False, width=118)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gkd_dist.metrics.monitoring", description="Write what is "
                                     "generated from the metrics' catalogue.")  # fmt: skip
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="of the checkout (default: here)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a file differs")
    parser.add_argument("--runbooks", default="", metavar="URL", help="what links to runbooks begin with")
    given = parser.parse_args(arguments)
    differing = []
    for name, text in files(given.runbooks).items():
        path = given.folder / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        differing.append(name)
        if not given.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in differing:
        print(f"{name} {'differs; run `make monitoring`' if given.check else 'written'}")
    return int(given.check and bool(differing))


if __name__ == "__main__":
    sys.exit(main())
