"""The wheel alone, with no repository in sight: its version, its recipes, and a run."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import gkd_dist
from gkd_dist.config.recipes import recipe_names
from tests.tiny_runs import arguments

REPOSITORY = Path(__file__).parents[2]
LIMIT_S = 250

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools writes beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: no list of the files that a wheel is made of")
    for name in listed.stdout.split("\0"):
        if name in ("pyproject.toml", "README.md", "LICENSE") or name.startswith("gkd_dist/"):
            copy = folder / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((REPOSITORY / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), folder / "source"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def gkd(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The command of an environment that has this wheel, and from outside only what it needs."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], timeout=LIMIT_S, check=True)
    python = folder / "bin" / "python"
    (own,) = folder.glob("lib/python3*/site-packages")
    install = [
        sys.executable,
        "-m",
        "pip",
        f"--python={python}",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        str(wheel),
    ]
    done = subprocess.run(install, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    (own / "dependencies.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # of its folder; `.pth` in it are not read
    yield folder / "bin" / "gkd"


def said(gkd: Path, *words: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [gkd, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_what_the_package_reads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    wanted = [
        path for path in (REPOSITORY / "gkd_dist").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    assert names >= {str(path.relative_to(REPOSITORY)) for path in wanted}
    assert {name.partition("/")[0] for name in names if not name.startswith("gkd_dist-")} == {"gkd_dist"}, "no tests"
    assert {f"Provides-Extra: {name}" for name in ("gpu", "eval", "trackers")} <= set(metadata.splitlines())
    assert re.search(r"^Version: (.+)$", metadata, re.MULTILINE)[1] == gkd_dist.__version__  # type: ignore[index]


def test_it_runs_from_an_empty_folder(gkd: Path, models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    tmp = tmp_path / "empty"
    tmp.mkdir()
    python = gkd.parent / "python"
    where = subprocess.check_output([python, "-c", "import gkd_dist; print(gkd_dist.__file__)"], cwd=tmp, text=True)
    assert Path(where).is_relative_to(gkd.parents[1])
    assert said(gkd, "--version", folder=tmp) == f"gkd {gkd_dist.__version__}\n"
    assert [line.split()[0] for line in said(gkd, "recipes", folder=tmp).splitlines()] == list(recipe_names())
    tiny = arguments(models, data, tmp)
    assert said(gkd, "validate", *tiny, "--config-only", folder=tmp) == "ok\n"
    assert "figure1" in said(gkd, "experiment", "--list", folder=tmp)
    said(gkd, "run", *tiny, "learner.max_steps=2", folder=tmp)
    assert json.loads((tmp / "latest" / "summary.json").read_text())
    said(gkd, "report", "latest", "--output-dir", str(tmp), folder=tmp)
    assert (tmp / "latest" / "report.html").read_text().startswith("<!")
