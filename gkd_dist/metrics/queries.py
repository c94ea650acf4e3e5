"""What a PromQL query asks for, held against the catalogue (floor F2)."""

import re

from gkd_dist.metrics.catalogue import DEFINITIONS, Definition, Kind

_SELECTOR = re.compile(r"(?<![\w:])(gkd_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_OF_HISTOGRAMS = ("_bucket", "_sum", "_count")
OF_THE_SCRAPE = frozenset({"job", "instance"})
"""Labels that Prometheus adds."""


def names_in(query: str) -> set[str]:
    """Metrics of the catalogue that `query` reads, histograms by their own name.

    Raises:
        ValueError: it reads one that the catalogue does not have, or selects by a label or value that it cannot have.
    """
    names = set()
    for series, matchers in _SELECTOR.findall(query):
        definition = _read_by(series)
        names.add(definition.name)
        for label, operator, value in _MATCHER.findall(matchers):
            if label in OF_THE_SCRAPE or (label == "le" and series.endswith("_bucket")):
                continue
            if label not in definition.labels:
                raise ValueError(f"{definition.name} has no label {label}: {query}")
            values = value.split("|") if operator in ("=~", "!~") else [value]
            unknown = [each for each in values if definition.labels[label] and each not in definition.labels[label]]
            if unknown and not value.startswith("$"):
                raise ValueError(f"{label} of {definition.name} is never {', '.join(unknown)}: {query}")
    return names


def _read_by(series: str) -> Definition:
    for definition in DEFINITIONS:
        if definition.kind is Kind.HISTOGRAM:
            if series in {definition.name + suffix for suffix in _OF_HISTOGRAMS}:
                return definition
        elif series == definition.name:
            return definition
    raise ValueError(f"the catalogue has no series {series}")
