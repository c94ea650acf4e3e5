"""Ask an advisory service about every version of constraints.txt; `make audit` runs this. Needs the network.

pip-audit asks PyPI; `make audit ARGS="-s osv"` asks OSV, `ARGS="--ignore-vuln ID"` leaves out what was judged already.
Exit codes: 0 nothing is known against any version; 1 something is; 2 not every version could be asked about.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PINS = Path(__file__).resolve().parent.parent / "constraints.txt"
SHOWN = 5
"""Packages that are named where many were not found."""


def main(arguments: Sequence[str], pins: Path = PINS) -> int:
    """Ask, print, and return the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(pins), "--no-deps", "--disable-pip"]
    options = ["--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    done = subprocess.run([*command, *options, *arguments], capture_output=True, text=True, check=False)
    code, lines = verdict(done.stdout, done.stderr)
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


def verdict(report: str, problems: str) -> tuple[int, list[str]]:
    """Exit code and lines to print.

    Args:
        report: standard output of pip-audit, JSON; none where it gave up.
        problems: its standard error stream.
    """
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except ValueError:
        reason = next((line.strip() for line in reversed(problems.splitlines()) if line.strip()), "no reason given")
        return 2, [
            "audit: nothing was checked: the advisory service gave no answer; this needs the network, or a mirror of "
            'the service (make audit ARGS="-s osv --osv-url URL")',
            f"audit: {reason}",
        ]
    known = [
        f"audit: {_named(each)}: {found['id']}, mended in {' or '.join(found['fix_versions']) or 'none'}"
        for each in packages
        for found in each.get("vulns", ())
    ]
    unasked = [each["name"] for each in packages if "skip_reason" in each]
    if unasked:
        more = f" and {len(unasked) - SHOWN} more" if len(unasked) > SHOWN else ""
        known.append(
            f"audit: {len(unasked)} of {len(packages)} packages are not known there, and unchecked: "
            f"{', '.join(unasked[:SHOWN])}{more}"
        )
    if not known:
        return 0, [f"audit: nothing is known against the {len(packages)} pinned versions"]
    return 1 if len(known) > bool(unasked) else 2, known


def _named(package: dict[str, Any]) -> str:
    return f"{package['name']} {package['version']}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
