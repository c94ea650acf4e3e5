"""The exporter: numbers in, Prometheus text out, over real HTTP."""

import math
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gkd_dist import __version__
from gkd_dist.errors import ConfigError
from gkd_dist.metrics.catalogue import DEFINITIONS, MAX_SERIES, Kind
from gkd_dist.metrics.exporter import Exporter

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    exporter = Exporter()
    yield exporter
    exporter.close()


def series_of(text: str) -> Series:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(exporter: Exporter, name: str, **labels: str) -> float | None:
    return series_of(exporter.text().decode()).get((name, tuple(sorted(labels.items()))))


def get(port: int, path: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_counters_add_up_per_label(exporter: Exporter) -> None:
    exporter.count("gkd_learner_steps_total")
    exporter.count("gkd_learner_steps_total", 2)
    exporter.count("gkd_sampler_completions_total", 3, finish_reason="stop")
    assert value(exporter, "gkd_learner_steps_total") == 3
    assert value(exporter, "gkd_sampler_completions_total", finish_reason="stop") == 3
    assert value(exporter, "gkd_sampler_completions_total", finish_reason="length") == 0


def test_a_gauge_is_absent_until_set_and_keeps_the_last_value(exporter: Exporter) -> None:
    assert value(exporter, "gkd_learner_loss") is None
    assert b"gkd_learner_loss" not in exporter.text()
    exporter.gauge("gkd_learner_loss", 2.5)
    exporter.gauge("gkd_learner_loss", 1.25)
    exporter.gauge("gkd_queue_depth", 4, queue="replay")
    assert value(exporter, "gkd_learner_loss") == 1.25
    assert value(exporter, "gkd_queue_depth", queue="replay") == 4


def test_a_gauge_passes_on_what_is_not_finite(exporter: Exporter) -> None:
    exporter.gauge("gkd_learner_loss", math.nan)
    loss = value(exporter, "gkd_learner_loss")
    assert loss is not None and math.isnan(loss)


def test_histograms_count_into_buckets(exporter: Exporter) -> None:
    for seconds in (0.2, 0.25, 3.0, 9999.0):
        exporter.observe("gkd_step_seconds", seconds)
    assert value(exporter, "gkd_step_seconds_bucket", le="0.1") == 0
    assert value(exporter, "gkd_step_seconds_bucket", le="0.25") == 2
    assert value(exporter, "gkd_step_seconds_bucket", le="500.0") == 3
    assert value(exporter, "gkd_step_seconds_bucket", le="+Inf") == 4
    assert value(exporter, "gkd_step_seconds_sum") == pytest.approx(10002.45)


def test_info_metrics_have_the_value_one_and_one_series(exporter: Exporter) -> None:
    run = {"run": "r-1", "student": 'a "b"\\c', "teacher": "t", "divergence": "jsd"}
    exporter.gauge("gkd_run_info", 1, **run)
    exporter.gauge("gkd_run_info", 1, **run)
    assert value(exporter, "gkd_build_info", version=__version__) == 1
    assert value(exporter, "gkd_run_info", **run) == 1
    with pytest.raises(ValueError, match="one series"):
        exporter.gauge("gkd_run_info", 1, **(run | {"run": "r-2"}))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e: e.count("gkd_nonsense_total"), "no metric is called 'gkd_nonsense_total'"),
        (lambda e: e.count("gkd_learner_loss"), "is a gauge, not a counter"),
        (lambda e: e.gauge("gkd_learner_steps_total", 1), "is a counter, not a gauge"),
        (lambda e: e.observe("gkd_learner_loss", 1), "is a gauge, not a histogram"),
        (lambda e: e.gauge("gkd_queue_depth", 1), r"has labels \['queue'\], got \[\]"),
        (lambda e: e.gauge("gkd_learner_loss", 1, run="x"), r"has labels \[\], got \['run'\]"),
        (lambda e: e.gauge("gkd_queue_depth", 1, queue="prompt-17"), "queue must be one of .*replay.*'prompt-17'"),
        (lambda e: e.count("gkd_learner_steps_total", -1), "can only grow"),
        (lambda e: e.count("gkd_learner_steps_total", math.nan), "can only grow"),
        (lambda e: e.observe("gkd_step_seconds", math.nan), "finite"),
    ],
)
def test_what_the_catalogue_does_not_have_is_refused(
    exporter: Exporter, call: Callable[[Exporter], None], words: str
) -> None:
    before = exporter.text()
    with pytest.raises(ValueError, match=words):
        call(exporter)
    assert exporter.text() == before


def test_the_text_holds_exactly_the_catalogue_and_no_more_series_than_promised(exporter: Exporter) -> None:
    for definition in DEFINITIONS:
        if definition.name == "gkd_build_info":
            continue
        sets = [dict.fromkeys(definition.labels, "x")] if definition.is_info else definition.label_sets()
        for labels in sets:
            match definition.kind:
                case Kind.COUNTER:
                    exporter.count(definition.name, 1, **labels)
                case Kind.GAUGE:
                    exporter.gauge(definition.name, 1, **labels)
                case Kind.HISTOGRAM:
                    exporter.observe(definition.name, 1, **labels)
    text = exporter.text().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families.keys() == {definition.name.removesuffix("_total") for definition in DEFINITIONS}
    for definition in DEFINITIONS:
        family = families[definition.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (definition.kind.value, definition.help)
        assert len(family.samples) == definition.num_series
    assert len(series_of(text)) == MAX_SERIES


def test_two_exporters_share_nothing(exporter: Exporter) -> None:
    Exporter().count("gkd_learner_steps_total", 5)
    assert value(exporter, "gkd_learner_steps_total") == 0


def test_metrics_are_served_over_http(exporter: Exporter) -> None:
    port = exporter.serve("127.0.0.1", 0)
    exporter.count("gkd_learner_trained_tokens_total", 640)
    status, content_type, text = get(port, "/metrics")
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert series_of(text)[("gkd_learner_trained_tokens_total", ())] == 640
    exporter.count("gkd_learner_trained_tokens_total", 60)
    assert series_of(get(port, "/metrics?x=1")[2])[("gkd_learner_trained_tokens_total", ())] == 700


def test_health_is_immediate_and_readiness_waits(exporter: Exporter) -> None:
    port = exporter.serve("127.0.0.1", 0)
    assert get(port, "/healthz")[0] == 200
    assert get(port, "/readyz")[0] == 503
    exporter.set_ready()
    assert get(port, "/readyz")[0] == 200
    assert get(port, "/")[0] == get(port, "/metricsx")[0] == 404


def test_readiness_may_come_before_serving(exporter: Exporter) -> None:
    exporter.set_ready()
    assert get(exporter.serve("127.0.0.1", 0), "/readyz")[0] == 200


def test_many_threads_lose_no_count(exporter: Exporter) -> None:
    port = exporter.serve("127.0.0.1", 0)

    def work() -> None:
        for _ in range(200):
            exporter.count("gkd_learner_steps_total")
        get(port, "/metrics")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(exporter, "gkd_learner_steps_total") == 1600


def test_close_frees_the_port_even_with_a_silent_client(exporter: Exporter) -> None:
    port = exporter.serve("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", port)):
        exporter.close()
        exporter.close()
    assert exporter.serve("127.0.0.1", port) == port
    with pytest.raises(ValueError, match="already serving"):
        exporter.serve("127.0.0.1", 0)


def test_a_port_in_use_names_the_setting_and_the_ways_out(exporter: Exporter) -> None:
    other = Exporter()
    port = other.serve("127.0.0.1", 0)
    with pytest.raises(ConfigError) as caught:
        exporter.serve("127.0.0.1", port)
    other.close()
    (problem,) = caught.value.problems
    assert problem.startswith(f"metrics.port: {port} on 127.0.0.1 is already in use")
    assert "metrics.port=0" in problem and "metrics.port=null" in problem
    assert caught.value.exit_code == 2
    assert exporter.serve("127.0.0.1", port) == port


def test_a_foreign_address_names_the_host_setting(exporter: Exporter) -> None:
    # 192.0.2.0/24 is reserved for documentation: no machine has it.
    with pytest.raises(ConfigError, match=r"metrics\.host: 192\.0\.2\.1 is not an address of this machine"):
        exporter.serve("192.0.2.1", 0)
