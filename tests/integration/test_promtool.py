"""Prometheus' own tool reads what is deployed, and every alert fires when it should and not when it should not."""

from pathlib import Path

import yaml

from gkd_dist.metrics.catalogue import DEFINITIONS, Kind
from gkd_dist.metrics.exporter import Exporter
from tests.prometheus import DEPLOYED, promtool


def test_configuration_and_rules_are_valid() -> None:
    for command in (["config", str(DEPLOYED / "prometheus.yml")], ["rules", str(DEPLOYED / "rules.yml")]):
        checked = promtool("check", *command)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    tested = promtool("test", "rules", str(DEPLOYED / "rules_test.yml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_rule_that_is_wrong_would_be_found(tmp_path: Path) -> None:
    for name in ("rules.yml", "rules_test.yml"):
        (tmp_path / name).write_text((DEPLOYED / name).read_text())
    rules = yaml.safe_load((tmp_path / "rules.yml").read_text())
    stalled = next(rule for rule in rules["groups"][1]["rules"] if rule["alert"] == "GkdLearnerStalled")
    stalled["expr"] = stalled["expr"].replace("> 600", "> 6000")
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    tested = promtool("test", "rules", str(tmp_path / "rules_test.yml"))
    assert tested.returncode != 0
    assert "GkdLearnerStalled" in tested.stdout + tested.stderr


def test_what_is_served_breaks_no_rule_of_naming() -> None:
    exporter = Exporter()
    for definition in DEFINITIONS:
        if definition.kind is Kind.GAUGE and not definition.is_info:
            for labels in definition.label_sets():
                exporter.gauge(definition.name, 1, **labels)
    checked = promtool("check", "metrics", said=exporter.text().decode())
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert not checked.stderr
