"""The documentation is built without a warning: every link within the repository leads somewhere."""

import ast
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NEEDED = ("sphinx", "myst_parser", "furo")


@pytest.fixture
def sphinx() -> None:
    for package in NEEDED:
        pytest.importorskip(package, reason=f"{package} is not installed; pip install -e '.[docs]'")


def warnings_of(sources: Path, output: Path) -> list[str]:
    """What Sphinx says about the checkout at `sources`."""
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--conf-dir", "docs", "--quiet", "--no-color"]
    done = subprocess.run(
        [*command, "--doctree-dir", str(output / "doctrees"), ".", str(output / "pages")],
        cwd=sources,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


@pytest.mark.usefixtures("sphinx")
def test_every_link_leads_somewhere(tmp_path: Path) -> None:
    assert warnings_of(REPOSITORY, tmp_path) == []
    for page in ("docs/index", "docs/configuration", "docs/decisions/README", "README", "CONTRIBUTING"):
        assert (tmp_path / "pages" / f"{page}.html").exists()
    (target,) = re.findall(r'href="(.+?)"', (tmp_path / "pages" / "index.html").read_text())
    assert (tmp_path / "pages" / target).exists(), "whoever opens the folder comes to the first page"


@pytest.mark.usefixtures("sphinx")
def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    (sources / "docs").mkdir(parents=True)
    shutil.copy(REPOSITORY / "docs" / "conf.py", sources / "docs")
    for asset in ("site", "root"):
        shutil.copytree(REPOSITORY / "docs" / asset, sources / "docs" / asset)
    (sources / "a.txt").touch()
    (sources / "docs" / "index.md").write_text(
        "# Index\n\n```{toctree}\nother\n../README\n```\n\n[file](../a.txt), [anchor](other.md#one-two)\n"
    )
    (sources / "docs" / "other.md").write_text("# Other\n\n## One two\n\n[here](#one-two)\n\n[x](../b.txt)\n")
    (sources / "README.md").write_text("# Read\n\n[page](docs/gone.md)\n\n[anchor](docs/other.md#three)\n")
    told = warnings_of(sources, tmp_path / "out")
    assert [line.partition("sources/")[2].partition(":")[0] for line in told] == [
        "README.md",
        "README.md",
        "docs/other.md",
    ]
    assert [name for name in ("gone.md", "three", "b.txt") if not any(name in line for line in told)] == []


@cache
def texts_of_the_package() -> set[str]:
    """Every string constant, and every constant part of a string with values in it."""
    sources = [ast.parse(path.read_text(encoding="utf-8")) for path in (REPOSITORY / "gkd_dist").rglob("*.py")]
    constants = [node.value for tree in sources for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return {constant for constant in constants if isinstance(constant, str)}


def test_messages_under_troubleshooting_are_messages_of_the_package() -> None:
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", text.partition("## By symptom")[0], re.MULTILINE)
    said = texts_of_the_package()
    assert len(messages) > 8
    assert [message for message in messages if not any(message in text for text in said)] == []


def test_every_environment_variable_of_the_package_has_its_row() -> None:
    told = set(re.findall(r"`([A-Za-z_]+)`", (REPOSITORY / "docs" / "environment.md").read_text(encoding="utf-8")))
    families = "GKD|RAY|VLLM|HF|XDG|WANDB|TRACKIO|OMP|GOMP|GLOO|MALLOC|TOKENIZERS|TRANSFORMERS"
    variables = {each for each in texts_of_the_package() if re.fullmatch(rf"(?:{families})_[A-Za-z_]*[A-Za-z]_?", each)}
    assert len(variables) > 20
    assert variables - told == {"RAY_AUTH_"}, "but for what begins the names of several"
