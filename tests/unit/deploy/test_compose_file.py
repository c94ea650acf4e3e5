"""deploy/compose: files that are mounted are there, ports are this machine's alone, and names fit together."""

import re
from pathlib import Path
from typing import Any

import yaml

from gkd_dist.config.load import load_run_config

REPOSITORY = Path(__file__).parents[3]
COMPOSE = REPOSITORY / "deploy" / "compose"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


SERVICES = read(COMPOSE / "compose.yaml")["services"]


def test_what_is_mounted_is_there() -> None:
    volumes = read(COMPOSE / "compose.yaml")["volumes"]
    for service in SERVICES.values():
        for mount in service.get("volumes", ()):
            source, target, *_ = mount.split(":")
            assert source in volumes or (COMPOSE / source).exists(), mount
            assert target.startswith("/")


def test_nothing_listens_beyond_this_machine_and_nothing_has_more_rights_than_it_needs() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert "ports" not in SERVICES["job"]
    for name in ("prometheus", "grafana"):
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"]), "an exact version"


def test_the_job_builds_the_target_and_runs_a_recipe_that_others_can_watch() -> None:
    build = SERVICES["job"]["build"]
    assert (COMPOSE / build["context"]).resolve() == REPOSITORY
    dockerfile = (REPOSITORY / build["dockerfile"]).read_text()
    assert f"AS {build['target']}\n" in dockerfile
    command, name, *overrides = SERVICES["job"]["command"]
    config = load_run_config(name, overrides)
    assert command == "run" and config.metrics.host == "0.0.0.0"
    assert SERVICES["job"]["expose"] == [str(config.metrics.port)]
    assert f"{config.output_dir}" in [mount.split(":")[1] for mount in SERVICES["job"]["volumes"]]
    assert "VOLUME /runs\n" in dockerfile
    assert SERVICES["job"]["hostname"] == "job", "a container that is made again knows the lock of the one before"


def test_prometheus_differs_from_the_deployed_one_in_the_address_alone() -> None:
    deployed = (REPOSITORY / "deploy" / "monitoring" / "prometheus.yml").read_text()
    here = read(COMPOSE / "prometheus.yml")
    assert here == yaml.safe_load(deployed.replace("//localhost:9400", "//job:9400"))


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    (source,) = read(COMPOSE / "grafana" / "datasources" / "prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090" and source["isDefault"] is True
    (provider,) = read(COMPOSE / "grafana" / "dashboards" / "gkd.yaml")["providers"]
    mounted = [mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/dashboard.json" in mounted
