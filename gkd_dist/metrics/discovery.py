"""What Prometheus shall scrape for one run, as its HTTP service discovery asks for it (floor F2).

The controller serves the metrics of all actors: they come with the messages, so that a scrape target per actor, which
would come and go with restarts, is not needed. vLLM inside of an actor serves nothing by itself; a server that teachers
ask (`engine=server`) has its own /metrics, and is listed beside the controller.

Format: https://prometheus.io/docs/prometheus/latest/http_sd/
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from gkd_dist.config.run import RunConfig

_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Target:
    """One endpoint."""

    address: str
    """`host:port`."""
    component: str
    """Whose metrics it serves: `controller`, `teacher` or `teacher NAME`."""
    scheme: str = "http"
    path: str = "/metrics"

    @property
    def group(self) -> dict[str, object]:
        """Its entry in the answer. What begins with two underscores is for Prometheus itself and for relabeling: a
        plain label would stand beside those of our metrics."""
        labels = {"__scheme__": self.scheme, "__metrics_path__": self.path, "__meta_gkd_component": self.component}
        return {"targets": [self.address], "labels": labels}


def server_targets(config: RunConfig) -> list[Target]:
    """The vLLM servers that teachers of a run ask, each once."""
    targets: dict[str, Target] = {}
    for name, teacher in config.named_teachers.items():
        if teacher.base_url is not None:
            url = urlsplit(teacher.base_url)
            address = url.netloc if url.port is not None else f"{url.netloc}:{_PORTS[url.scheme]}"
            path = url.path.rstrip("/").removesuffix("/v1") + "/metrics"
            component = "teacher" if name == "teacher" else f"teacher {name}"
            targets.setdefault(address + path, Target(address, component, url.scheme, path))
    return list(targets.values())


def controller_target(asked: str | None, port: int) -> Target:
    """The endpoint that answers, by the address under which it was found.

    Args:
        asked: the request's Host header, if it has one: whoever found the list by it finds the metrics by it too, also
            where this machine has several addresses, or listens on all of them.
        port: that the endpoint listens on.
    """
    match = _AUTHORITY.fullmatch(asked or "")
    if match is None:
        return Target(f"127.0.0.1:{port}", "controller")
    host, own_port = match.groups()
    return Target(host + (own_port or f":{_PORTS['http']}"), "controller")


def answer(controller: Target, others: Iterable[Target]) -> bytes:
    """The body of an answer, JSON."""
    return json.dumps([target.group for target in (controller, *others)], indent=1).encode() + b"\n"
