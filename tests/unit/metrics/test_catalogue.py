"""The table of metrics keeps Prometheus' conventions and its own bound."""

import re

import pytest

from gkd_dist.metrics.catalogue import DEFINITIONS, MAX_SERIES, SLOTS, Definition, Kind, definition_of

LABELS_OF_ONE_SAMPLE = {"sample_id", "id", "prompt", "path", "pid", "address", "ip", "node", "host"}


def by_name(definition: Definition) -> str:
    return definition.name


def test_names_are_unique() -> None:
    assert len({definition.name for definition in DEFINITIONS}) == len(DEFINITIONS)


@pytest.mark.parametrize("definition", DEFINITIONS, ids=by_name)
def test_a_definition_follows_the_naming_conventions(definition: Definition) -> None:
    assert re.fullmatch(r"gkd_[a-z][a-z0-9_]*", definition.name)
    assert (definition.kind is Kind.COUNTER) == definition.name.endswith("_total")
    assert not re.search(r"_(ms|millis|milliseconds|kb|mb|percent|count|sum|bucket|created)$", definition.name)
    assert definition.help.endswith(".") and len(definition.help) > 10
    assert "_per_" not in definition.name and "/" not in definition.unit  # Prometheus makes rates, of counters
    assert "robability" not in definition.help or definition.name.endswith("_ratio")
    for word in ("seconds", "bytes", "tokens", "nats", "versions"):
        stem = definition.name.removesuffix("_total")
        if stem.endswith(f"_{word}"):
            assert definition.unit == word


@pytest.mark.parametrize("definition", DEFINITIONS, ids=by_name)
def test_labels_are_bounded_unless_the_metric_is_an_info(definition: Definition) -> None:
    for label, values in definition.labels.items():
        assert re.fullmatch(r"[a-z_]+", label)
        assert label not in LABELS_OF_ONE_SAMPLE
        assert bool(values) != definition.is_info
        assert len(set(values)) == len(values) <= (len(SLOTS) if label == "slot" else 8)
        assert all(re.fullmatch(r"[a-z_]+|[0-9]{1,2}", value) for value in values)


@pytest.mark.parametrize("definition", DEFINITIONS, ids=by_name)
def test_buckets_belong_to_histograms_and_ascend(definition: Definition) -> None:
    assert bool(definition.buckets) == (definition.kind is Kind.HISTOGRAM)
    assert list(definition.buckets) == sorted(set(definition.buckets))


def test_the_number_of_series_is_small() -> None:
    assert len(DEFINITIONS) < MAX_SERIES <= 400


def test_label_sets_are_all_combinations() -> None:
    sets = definition_of("gkd_held_out_divergence_nats").label_sets()
    assert len(sets) == 12
    assert {"text": "reference", "kind": "reverse_kl", "when": "after"} in sets


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"learner_loss.*catalogue"):
        definition_of("learner_loss")
