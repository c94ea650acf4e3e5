"""deploy/monitoring/prometheus.yml points at what a run serves by default."""

import re
from pathlib import Path

import yaml

from gkd_dist.config.ring import MetricsConfig
from gkd_dist.metrics.catalogue import DEFINITIONS

FILE = Path(__file__).parents[3] / "deploy" / "monitoring" / "prometheus.yml"


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_the_target_is_the_default_endpoint() -> None:
    config = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "gkd"
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"] == [{"targets": [f"localhost:{MetricsConfig().port}"]}]


def test_a_scrape_times_out_before_the_next_one() -> None:
    settings = yaml.safe_load(FILE.read_text(encoding="utf-8"))["global"]
    assert 0 < seconds(settings["scrape_timeout"]) < seconds(settings["scrape_interval"])


def test_every_metric_named_in_the_file_is_in_the_catalogue() -> None:
    named = set(re.findall(r"\bgkd_[a-z_]+", FILE.read_text(encoding="utf-8")))
    assert "gkd_learner_last_step_timestamp_seconds" in named
    assert named <= {definition.name for definition in DEFINITIONS}
