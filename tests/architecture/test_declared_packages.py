"""What the package imports, it asks for: in `dependencies`, or in an extra."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.architecture.import_graph import OUTSIDE, OUTSIDE_OF_FILE

REPOSITORY = Path(__file__).parents[2]
UNDER_ANOTHER_NAME = {"yaml": "pyyaml", "prometheus_client": "prometheus-client", "rouge_score": "rouge-score"}
"""Where the package itself may not be installed here, or its distribution is called otherwise."""
BROUGHT = {"click": "typer", "triton": "torch", "gguf": "quickstart's extra", "trackio": "a user who reports to it"}
"""By whom what is not declared by its own name for every installation comes."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> tuple[dict[str, str], dict[str, str]]:
    """Requirements by normal name: those of every installation, and those of extras for users."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]

    def by_name(lines: list[str]) -> dict[str, str]:
        return {normal(re.split(r"[\[<>=!~; ]", line)[0]): line for line in lines}

    return by_name(project["dependencies"]), by_name([*extras["gpu"], *extras["eval"], *extras["trackers"]])


def test_every_package_that_may_be_imported_is_declared() -> None:
    always, extra = declared()
    allowed = set().union(*OUTSIDE.values(), *OUTSIDE_OF_FILE.values()) - set(sys.stdlib_module_names)
    known = packages_distributions()
    for name in sorted(allowed - BROUGHT.keys()):
        distributions = {normal(each) for each in [*known.get(name, ()), name, UNDER_ANOTHER_NAME.get(name, name)]}
        assert distributions & (always.keys() | extra.keys()), f"{name} is imported and not declared"


def test_what_we_use_the_inside_of_is_bounded() -> None:
    always, extra = declared()
    for requirement in (always["transformers"], extra["vllm"]):
        assert ">=" in requirement and "<" in requirement.replace(">=", ""), requirement


def test_pins_are_within_what_is_declared() -> None:
    from packaging.requirements import Requirement

    always, extra = declared()
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {normal(name): version.partition("+")[0] for name, version in pins.items()}
    for name, line in (always | extra).items():
        if name in pinned:
            assert Requirement(line).specifier.contains(pinned[name], prereleases=True), (line, pinned[name])
        else:
            assert name in {"wandb", "trackio"} or name in pinned, f"{name} has no pin"
