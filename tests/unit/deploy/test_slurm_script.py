"""deploy/slurm/gkd.sbatch, with stand-ins for Slurm, Ray and gkd that write down how they were called."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
SCRIPT = REPOSITORY / "deploy" / "slurm" / "gkd.sbatch"
SHELL_SCRIPTS = [SCRIPT, REPOSITORY / "deploy" / "compose" / "try-local.sh"]
LIMIT_S = 60

STAND_INS = {
    "scontrol": 'echo "scontrol $*" >>"$CALLS"; [[ $1 != show ]] || printf "n1\\nn2\\n"',
    "srun": 'case "$*" in *hostname*) exec "${@: -3}" ;; *) echo "srun $*" >>"$CALLS"; exec sleep 100 ;; esac',
    "hostname": 'case "$1" in --ip-address) echo "$OWN_IP" ;; *) echo "fe80::1 10.0.0.1 192.168.0.1" ;; esac',
    # A node has joined once its step has written itself down: the end of a job also ends steps that are just starting.
    "python": "port=${@: -1} port=${port##*:}\n"
    'until (($(grep -c "^srun.*[=:]$port " "$CALLS") >= NUM_NODES)); do sleep 0.02; done\necho "$NUM_NODES"',
    "gkd": 'echo "gkd $* $(stat -c %a "$RAY_AUTH_TOKEN_PATH") $RAY_AUTH_MODE" >>"$CALLS"\n'
    '[[ -z $HANGS ]] || { trap "exit 75" TERM; while :; do sleep 0.05; done; }\nexit "$CODE"',
}


class Allocation:
    """Where the script runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.calls.touch()
        programs = folder / "bin"
        programs.mkdir()
        for name, text in STAND_INS.items():
            (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (programs / name).chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "GKD_RUNS": str(folder / "runs"),
            "CALLS": str(self.calls),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "32",
            "SLURM_GPUS_ON_NODE": "8",
            "OWN_IP": "127.0.1.1",
            "NUM_NODES": "2",
            "HANGS": "",
            "CODE": "0",
        }

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["bash", str(SCRIPT), *arguments],
            env=self.environment | environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def called(self, program: str) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if line.startswith(program)]


@pytest.fixture
def allocation(tmp_path: Path) -> Allocation:
    return Allocation(tmp_path)


@pytest.fixture
def hanging(allocation: Allocation) -> Iterator["subprocess.Popen[str]"]:
    """A job whose run goes on until it is told to stop."""
    job = allocation.start("quickstart", HANGS="yes")
    end = time.monotonic() + LIMIT_S
    while not allocation.called("gkd"):
        assert time.monotonic() < end and job.poll() is None
        time.sleep(0.02)
    yield job
    if job.poll() is None:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def test_a_run_gets_the_cluster_and_its_exit_code_is_that_of_the_job(allocation: Allocation) -> None:
    job = allocation.start("mine.yaml", "learner.max_steps=3", CODE="2")
    assert job.communicate(timeout=LIMIT_S)[1] == "" and job.returncode == 2
    (run,) = allocation.called("gkd")
    port = 20000 + 4711 % 2500 * 4
    address = f"10.0.0.1:{port}"
    runs = allocation.environment["GKD_RUNS"]
    words = f"metrics.port={port + 3} learner.max_steps=3 cluster.address={address} output_dir={runs}"
    wanted = f"gkd run mine.yaml {words} 600 token"
    assert run == wanted, "the token's file is for its owner alone"
    head, workers = sorted(allocation.called("srun"), key=lambda line: "--exclude" in line)
    assert (
        "--nodelist=n1 bash -c exec ray start --head" in head and f"--node-ip-address=10.0.0.1 --port={port} " in head
    )
    assert f"--ray-client-server-port={port + 1} " in head
    assert "--nodes=1 --ntasks=1 --exclude=n1" in workers and f"ray start --block --address={address} " in workers
    for step in (head, workers):
        assert "srun --overlap --cpus-per-task=32 " in step, "a step does not inherit it"
        assert "--num-cpus=32 --num-gpus=8 " in step, "what the job was given, not what the node has"
        assert f"--dashboard-agent-listen-port={port + 2} --min-worker-port=0 --max-worker-port=0" in step
    assert not list(Path(runs).glob(".ray-token*")), "it goes with the job"
    assert not [line for line in allocation.called("scontrol") if "requeue" in line]


@pytest.mark.parametrize(("own", "taken"), [("10.1.2.3", "10.1.2.3"), ("127.0.0.1 10.4.4.4", "10.4.4.4")])
def test_the_address_is_never_a_loopback_one(allocation: Allocation, own: str, taken: str) -> None:
    job = allocation.start("quickstart", OWN_IP=own)
    assert job.communicate(timeout=LIMIT_S)[1] == "" and job.returncode == 0
    assert f"cluster.address={taken}:" in allocation.called("gkd")[0]


def test_jobs_next_to_each_other_share_no_port(allocation: Allocation) -> None:
    ports: list[str] = []
    for number in ("1000", "1001"):
        assert allocation.start("quickstart", SLURM_JOB_ID=number).wait(LIMIT_S) == 0
        (head,) = (line for line in allocation.called("srun") if "--head" in line and f"ray-{number} " in line)
        (run,) = (line for line in allocation.called("gkd") if f"metrics.port={20003 + int(number) * 4}" in line)
        ports += [*re.findall(r"port=(\d+)", head), *re.findall(r"metrics.port=(\d+)", run)]
    fixed = [port for port in ports if port != "0"]
    assert len(fixed) == len(set(fixed)) == 8


def test_near_the_end_of_its_time_it_stops_with_a_checkpoint_and_queues_again(
    allocation: Allocation, hanging: "subprocess.Popen[str]"
) -> None:
    hanging.send_signal(signal.SIGTERM)
    hanging.communicate(timeout=LIMIT_S)
    assert hanging.returncode == 75
    assert allocation.called("scontrol")[-1] == "scontrol requeue 4711"


def test_a_run_that_somebody_stopped_stays_stopped(allocation: Allocation) -> None:
    job = allocation.start("quickstart", CODE="75")
    job.communicate(timeout=LIMIT_S)
    assert job.returncode == 75
    assert not [line for line in allocation.called("scontrol") if "requeue" in line]


def test_nodes_that_do_not_join_end_the_job_before_the_run(allocation: Allocation) -> None:
    job = allocation.start("quickstart", NUM_NODES="1", GKD_START_S="0")
    said = job.communicate(timeout=LIMIT_S)[1]
    assert job.returncode == 70 and "not all of 2 nodes joined" in said
    assert not allocation.called("gkd")


@pytest.mark.parametrize(("without", "words"), [("GKD_RUNS", "a folder that all nodes share"), ("", "usage: sbatch")])
def test_what_is_missing_is_said(allocation: Allocation, without: str, words: str) -> None:
    allocation.environment.pop(without, None)
    job = allocation.start(*(["quickstart"] if without else []))
    assert words in job.communicate(timeout=LIMIT_S)[1] and job.returncode != 0
    assert not allocation.called("srun")


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_parse_and_stop_at_errors(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n") and "\nset -euo pipefail\n" in text


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck on the PATH")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout
