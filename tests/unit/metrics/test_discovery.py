"""What Prometheus is told to scrape: the endpoint that answers, and servers of teachers; nothing per actor."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from gkd_dist.config.load import load_run_config
from gkd_dist.metrics.discovery import Target, controller_target, server_targets
from gkd_dist.metrics.exporter import Exporter


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    exporter = Exporter()
    yield exporter
    exporter.close()


def asked(port: int, host: str | None = None) -> tuple[str, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/http_sd", headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], json.loads(answer.read())


def test_a_run_without_servers_lists_its_controller_alone(exporter: Exporter) -> None:
    config = load_run_config("quickstart")
    exporter.announce(server_targets(config))
    port = exporter.serve("127.0.0.1", 0)
    content_type, groups = asked(port)
    assert content_type == "application/json"  # Prometheus takes no other
    labels = {"__scheme__": "http", "__metrics_path__": "/metrics", "__meta_gkd_component": "controller"}
    assert groups == [{"targets": [f"127.0.0.1:{port}"], "labels": labels}]
    with urllib.request.urlopen(f"http://{groups[0]['targets'][0]}/metrics", timeout=10) as answer:
        assert b"gkd_build_info" in answer.read()


def test_the_controller_is_listed_under_the_address_that_it_was_found_by(exporter: Exporter) -> None:
    port = exporter.serve("127.0.0.1", 0)
    _, groups = asked(port, "trainer.example:1234")
    assert groups[0]["targets"] == ["trainer.example:1234"]


@pytest.mark.parametrize(
    ("header", "address"),
    [
        ("10.0.0.7:9400", "10.0.0.7:9400"),
        ("[::1]:9400", "[::1]:9400"),
        ("gkd.example", "gkd.example:80"),
        (None, "127.0.0.1:9400"),
        ("", "127.0.0.1:9400"),
        ('a"b:1', "127.0.0.1:9400"),
        ("a/b:9", "127.0.0.1:9400"),
        ("a:123456", "127.0.0.1:9400"),
    ],
)
def test_a_header_that_is_no_address_is_not_repeated(header: str | None, address: str) -> None:
    assert controller_target(header, 9400).address == address


def test_servers_of_teachers_are_listed_once_each_at_their_own_path() -> None:
    server = {"engine": "server", "transport": "topk", "dtype": "bfloat16", "model": "m"}
    config = load_run_config("quickstart")
    teachers = {
        "math": {**server, "base_url": "http://one.example:8000/v1"},
        "law": {**server, "base_url": "http://one.example:8000/v1/"},
        "code": {**server, "base_url": "https://two.example/models/big/v1"},
        "here": {"model": "m", "transport": "topk"},
    }
    assert config.teacher is not None
    several = config.model_copy(
        update={
            "teacher": None,
            "teachers": {name: type(config.teacher).model_validate(each) for name, each in teachers.items()},
        }
    )
    assert server_targets(several) == [
        Target("one.example:8000", "teacher math"),
        Target("two.example:443", "teacher code", "https", "/models/big/metrics"),
    ]


def test_announced_targets_stand_behind_the_controller(exporter: Exporter) -> None:
    port = exporter.serve("127.0.0.1", 0)
    exporter.announce([Target("one.example:8000", "teacher")])
    _, groups = asked(port)
    assert [group["labels"]["__meta_gkd_component"] for group in groups] == ["controller", "teacher"]
