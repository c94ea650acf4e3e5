"""The catalogue as a page for people (floor F2)."""

from gkd_dist.metrics.catalogue import DEFINITIONS, MAX_SERIES, Definition

_MOST_VALUES = 12
"""Of a label that are written out."""


def reference() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Generated from `gkd_dist/metrics/catalogue.py` by `make monitoring`. How to scrape and look at them: "
        "[monitoring.md](monitoring.md).",
        "",
        f"One run exports at most {MAX_SERIES} series, however many replicas it has: every label has a fixed set of "
        "values. Counters and histograms begin with 0; a gauge appears when it is first set.",
        "",
        "| metric | type | unit | labels | series | means |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_row(definition) for definition in DEFINITIONS]
    return "\n".join(lines) + "\n"


def _row(definition: Definition) -> str:
    labels = "; ".join(f"`{label}`: {_values(values)}" for label, values in definition.labels.items()) or "-"
    cells = (
        f"`{definition.name}`",
        "info" if definition.is_info else definition.kind.value,
        definition.unit or "-",
        labels,
        str(definition.num_series),
        definition.help,
    )
    return f"| {' | '.join(cells)} |"


def _values(values: tuple[str, ...]) -> str:
    if not values:
        return "any text"
    if len(values) > _MOST_VALUES:
        return f"{values[0]}, {values[1]}, ... {values[-2]}, {values[-1]}"
    return ", ".join(values)
