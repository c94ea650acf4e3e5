"""The table of panels as a Grafana dashboard (floor F2).

Grafana's JSON model: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/.
The data source is a variable, so the file works wherever it is imported.
"""

from typing import Any

from gkd_dist.metrics.catalogue import definition_of
from gkd_dist.metrics.panels import ROWS, Panel, filled
from gkd_dist.metrics.queries import names_in

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24
_HEIGHT = 8
_STAT_HEIGHT = 4
_SCHEMA = 39
"""Of Grafana 11; later ones read it too."""


def dashboard() -> dict[str, Any]:
    """What Grafana imports."""
    return {
        "uid": "gkd-run",
        "title": "gkd: a distillation run",
        "description": "Generated from gkd_dist/metrics/panels.py by `make monitoring`.",
        "tags": ["gkd"],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": _panels(),
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        _of_labels("run", "Run", "label_values(gkd_run_info, run)"),
        _of_labels("instance", "Instance", 'label_values(gkd_run_info{run=~"$run"}, instance)', is_hidden=True),
    ]


def _of_labels(name: str, label: str, query: str, *, is_hidden: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # whenever the span of time changes, so that new runs appear
        "sort": 2,
        "multi": True,
        "includeAll": True,
        "hide": 2 if is_hidden else 0,
    }


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        place = {"x": 0, "y": top, "w": _WIDTH, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place})
        top, left, line = top + 1, 0, 0
        for panel in row:
            if left + panel.width > _WIDTH:
                top, left, line = top + line, 0, 0
            height = _STAT_HEIGHT if panel.kind == "stat" and panel.width < _HEIGHT else _HEIGHT
            place = {"x": left, "y": top, "w": panel.width, "h": height}
            panels.append(_panel(panel, len(panels) + 1, place))
            left, line = left + panel.width, max(line, height)
        top += line
    return panels


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    fill = filled()
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": fill(expr), "legendFormat": legend or "__auto"}
        for index, (expr, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": _SOURCE,
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, **_look(panel)}, "overrides": []},
        "options": _options(panel),
    }


def _look(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {}
    is_signed = any(definition_of(name).is_signed for expr, _ in panel.queries for name in names_in(expr))
    return {**({} if is_signed else {"min": 0}), "custom": {"lineWidth": 1, "fillOpacity": 5}}


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"textMode": panel.shows, "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
