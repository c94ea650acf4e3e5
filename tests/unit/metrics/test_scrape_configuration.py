"""deploy/monitoring/prometheus.yml finds what a run serves by default."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gkd_dist.config.ring import MetricsConfig
from gkd_dist.distillation.telemetry import LAST_SCRAPE_S
from gkd_dist.metrics.discovery import controller_target

FOLDER = Path(__file__).parents[3] / "deploy" / "monitoring"


@pytest.fixture
def config() -> Any:
    return yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_the_list_of_targets_is_asked_from_the_default_endpoint(config: Any) -> None:
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "gkd"
    (source,) = job["http_sd_configs"]
    assert source["url"] == f"http://localhost:{MetricsConfig().port}/http_sd"
    assert seconds(source["refresh_interval"]) <= 15  # Prometheus' own is a minute


def test_a_target_says_what_it_is(config: Any) -> None:
    (rule,) = config["scrape_configs"][0]["relabel_configs"]
    (label,) = rule["source_labels"]
    assert controller_target(None, 1).group["labels"][label] == "controller"  # type: ignore[index]
    assert rule["target_label"] == "component"


def test_a_scrape_times_out_before_the_next_one(config: Any) -> None:
    settings = config["global"]
    assert 0 < seconds(settings["scrape_timeout"]) < seconds(settings["scrape_interval"])


def test_rules_are_those_beside_it(config: Any) -> None:
    assert all((FOLDER / name).exists() for name in config["rule_files"])


def test_a_run_that_ends_waits_longer_than_any_interval_here(config: Any) -> None:
    monitor = yaml.safe_load((FOLDER.parent / "kuberay" / "base" / "pod-monitor.yaml").read_text(encoding="utf-8"))
    (ours,) = [each for each in monitor["spec"]["podMetricsEndpoints"] if each["port"] == "gkd-metrics"]
    for interval in (config["global"]["scrape_interval"], ours["interval"]):
        assert seconds(interval) < LAST_SCRAPE_S
