"""Rules, dashboard and reference page: generated from the catalogue, whole, and as they stand in the repository."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gkd_dist.metrics import monitoring
from gkd_dist.metrics.catalogue import DEFINITIONS, Kind
from gkd_dist.metrics.panels import queries
from gkd_dist.metrics.queries import names_in
from gkd_dist.metrics.rules import ALERTS, RECORDINGS, rule_groups

REPOSITORY = Path(__file__).parents[3]
FOLDER = REPOSITORY / "deploy" / "monitoring"


@pytest.fixture
def dashboard() -> Any:
    return json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))


def test_the_files_of_the_repository_are_those_that_would_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert monitoring.main([str(REPOSITORY), "--check"]) == 0, capsys.readouterr().out


def test_a_file_that_differs_or_is_missing_is_named_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert monitoring.main([str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().out.count("differs; run `make monitoring`") == 4
    assert not list(tmp_path.iterdir())
    assert monitoring.main([str(tmp_path)]) == 0
    rules = tmp_path / "deploy" / "monitoring" / "rules.yml"
    rules.write_text(rules.read_text() + "\n")
    capsys.readouterr()
    assert monitoring.main([str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().out == "deploy/monitoring/rules.yml differs; run `make monitoring`\n"


def test_links_of_alerts_can_begin_with_an_address(tmp_path: Path) -> None:
    assert monitoring.main(["--runbooks=https://docs.example/", str(tmp_path)]) == 0
    text = (tmp_path / "deploy" / "monitoring" / "rules.yml").read_text()
    assert text.count("runbook_url: https://docs.example/docs/alerts.md#gkd") == len(ALERTS)


def test_every_query_reads_what_the_catalogue_has() -> None:
    recorded = {each.record for each in RECORDINGS}
    for query in [*queries(), *(each.expr for each in (*RECORDINGS, *ALERTS))]:
        assert names_in(query) or set(re.findall(r"gkd:[\w:]+", query)) & recorded, query
        assert set(re.findall(r"gkd:[\w:]+", query)) <= recorded, query
        for labels in re.findall(r"\b(?:by|on|without|ignoring) \(([^)]*)\)", query):
            known = {label for definition in DEFINITIONS for label in definition.labels}
            assert {label.strip() for label in labels.split(",")} <= known | {"job", "instance", "namespace", "le"}, (
                query
            )


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("rate(gkd_learner_steps[5m])", "no series gkd_learner_steps"),
        ("gkd_step_seconds", "no series gkd_step_seconds"),
        ("gkd_learner_loss_sum", "no series gkd_learner_loss_sum"),
        ('gkd_replicas{slot="1"}', "gkd_replicas has no label slot"),
        ('gkd_replicas{state=~"healthy|well"}', "state of gkd_replicas is never well"),
    ],
)
def test_a_query_that_the_catalogue_cannot_answer_is_refused(query: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        names_in(query)


def test_every_metric_is_in_some_panel() -> None:
    shown = set().union(*map(names_in, queries()))
    assert shown == {definition.name for definition in DEFINITIONS}


def test_every_counter_of_what_goes_wrong_has_an_alert() -> None:
    watched = set().union(*(names_in(each.expr) for each in (*RECORDINGS, *ALERTS)))
    wrong = re.compile("failures|skipped|nonfinite|restarts|rejected|retried")
    counters = {each.name for each in DEFINITIONS if each.kind is Kind.COUNTER and wrong.search(each.name)}
    assert len(counters) > 6 and counters <= watched


def test_the_dashboard_fits_together(dashboard: Any) -> None:
    panels = dashboard["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    wanted = ["Overview", "Throughput per role", "Queue and staleness", "Fleet", "Weights and checkpoints", "Loss"]
    assert rows == wanted
    assert "Bottleneck" in {panel["title"] for panel in panels}
    in_file = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert in_file == queries()
    assert all('instance=~"$instance"' in expr for expr in in_file)


def test_axes_begin_at_zero_but_where_values_may_be_below(dashboard: Any) -> None:
    graphs = [panel for panel in dashboard["panels"] if panel["type"] == "timeseries"]
    open_below = {panel["title"] for panel in graphs if "min" not in panel["fieldConfig"]["defaults"]}
    assert open_below == {"Loss", "Reward", "Held-out divergence"}
    assert {panel["fieldConfig"]["defaults"].get("min", 0) for panel in graphs} == {0}


def test_no_data_source_is_hard_coded(dashboard: Any) -> None:
    def sources(tree: Any) -> list[Any]:
        if isinstance(tree, list):
            return [found for each in tree for found in sources(each)]
        if not isinstance(tree, dict):
            return []
        here = [tree["datasource"]] if "datasource" in tree else []
        return here + [found for value in tree.values() for found in sources(value)]

    found = sources(dashboard)
    assert len(found) > 50
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in found)
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"


def test_every_alert_has_a_runbook_with_its_name() -> None:
    page = (REPOSITORY / "docs" / "alerts.md").read_text(encoding="utf-8")
    sections = {
        heading.lower(): text for heading, text in re.findall(r"^## (Gkd\w+)\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    }
    links = [rule["annotations"]["runbook_url"] for rule in rule_groups()["groups"][1]["rules"]]  # type: ignore[index]
    assert [link.split("#")[0] for link in links] == ["docs/alerts.md"] * len(ALERTS)
    assert {link.split("#")[1] for link in links} == sections.keys()
    for text in sections.values():
        assert "**Means**" in text and "**Do**" in text


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = yaml.safe_load((FOLDER / "rules_test.yml").read_text(encoding="utf-8"))["tests"]
    fires: dict[str, set[bool]] = {}
    for case in cases:
        for test in case["alert_rule_test"]:
            fires.setdefault(test["alertname"], set()).add(bool(test["exp_alerts"]))
    assert fires == {alert.name: {True, False} for alert in ALERTS}


def test_series_of_the_cases_have_labels_that_only_the_scrape_knows() -> None:
    """Each alert fires in one of them, so none matches two sides of which one has lost such labels."""
    cases = yaml.safe_load((FOLDER / "rules_test.yml").read_text(encoding="utf-8"))["tests"]
    for case in cases:
        for series in case["input_series"]:
            assert {"component", "pod"} <= set(re.findall(r'(\w+)="', series["series"])), (case["name"], series)


def test_no_rule_drops_labels_of_the_scrape() -> None:
    """One that does finds nothing on the other side of an operator, and its alert cannot be routed by them."""
    for each in (*RECORDINGS, *ALERTS):
        if not getattr(each, "record", "").startswith("gkd:run_"):  # by the run's name, over all that serve it
            assert not re.search(r"\b(by|on) \(", each.expr), each.expr
