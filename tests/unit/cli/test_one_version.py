"""One version: of the command, of the package's metadata, of the metric, of the list of changes."""

import re
import tomllib
from pathlib import Path

import pytest

from gkd_dist import __version__
from gkd_dist.cli import main
from gkd_dist.metrics.exporter import Exporter

REPOSITORY = Path(__file__).parents[3]


def test_command_metric_and_list_of_changes_show_one_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gkd {__version__}\n"
    newest = re.search(r"^## (\S+),", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None and newest[1] == __version__
    exported = Exporter()
    assert f'gkd_build_info{{version="{__version__}"}} 1.0' in exported.text().decode()


def test_the_wheel_takes_its_version_from_the_package() -> None:
    tree = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert tree["project"]["dynamic"] == ["version"]
    assert tree["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gkd_dist.__version__"}
