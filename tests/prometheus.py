"""A Prometheus server of a test's own, where this machine has one."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.gkd_process import LIMIT_S

_POLL_S = 0.1
DEPLOYED = Path(__file__).parents[1] / "deploy" / "monitoring"


def binary(name: str, variable: str) -> str:
    """Path of `prometheus` or `promtool`; skips the test where there is none."""
    path = os.environ.get(variable) or shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} on PATH nor in {variable}; Debian's package prometheus has it")
    return path


def promtool(*arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    """Run it, with `said` as its input."""
    command = [binary("promtool", "GKD_PROMTOOL"), *arguments]
    return subprocess.run(command, input=said, text=True, capture_output=True, timeout=LIMIT_S, check=False)


def free_port() -> int:
    """One that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Prometheus:
    """A server with the configuration that is deployed, but for its pace and the port of the run.

    Args:
        folder: for its data and log.
        port: of the run's endpoint, which need not be there yet.
    """

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        self.scraped_port = port
        config = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
        config["rule_files"] = [str(DEPLOYED / "rules.yml")]
        (source,) = config["scrape_configs"][0]["http_sd_configs"]
        source |= {"url": f"http://127.0.0.1:{port}/http_sd", "refresh_interval": "500ms"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        own = f"127.0.0.1:{free_port()}"
        self._url = f"http://{own}"
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            [
                binary("prometheus", "GKD_PROMETHEUS"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={own}",
            ],
            stdout=self._log,
            stderr=self._log,
        )
        end = time.monotonic() + LIMIT_S
        while not self._is_ready():
            assert self._process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=LIMIT_S):
                return True
        except (urllib.error.URLError, ConnectionError):  # a refusal, too
            return False

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, path: str, **parameters: object) -> Any:
        """`data` of an answer of its API.

        Raises:
            AssertionError: it refuses, and why.
        """
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
                body = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        assert body["status"] == "success", body
        return body["data"]

    def query(self, query: str, at: float | None = None) -> list[dict[str, Any]]:
        """Series that answer a query now, or at a Unix time."""
        found: list[dict[str, Any]] = self.ask("query", query=query, **({} if at is None else {"time": at}))["result"]
        return found

    def value(self, query: str, at: float | None = None) -> float:
        """Of the only series of an answer; NaN where there is none."""
        found = self.query(query, at)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else float("nan")

    def samples(self, series: str, span: str) -> dict[float, float]:
        """What was scraped of one series: time -> value."""
        (found,) = self.query(f"{series}[{span}]")
        return {float(at): float(value) for at, value in found["values"]}

    def until(self, query: str, holds: Callable[[float], bool], limit_s: float = LIMIT_S) -> float:
        """Ask again until the answer holds; returns it."""
        end = time.monotonic() + limit_s
        while True:
            assert self._process.poll() is None, "Prometheus ended"
            value = self.value(query)
            if holds(value):
                return value
            assert time.monotonic() < end, f"{query} is {value}"
            time.sleep(_POLL_S)

    def until_answered(self, query: str) -> list[dict[str, Any]]:
        """The series that answer a query, as soon as there are some: a scrape that came too late leaves a gap."""
        end = time.monotonic() + LIMIT_S
        while not (found := self.query(query)):
            assert time.monotonic() < end, f"nothing answers {query}"
            time.sleep(_POLL_S)
        return found

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(LIMIT_S)
        self._log.close()
