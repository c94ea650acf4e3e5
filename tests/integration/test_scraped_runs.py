"""A real Prometheus beside running jobs: what its queries return is what the run wrote down itself."""

import re
import signal
import tempfile
import urllib.request
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from gkd_dist.cli import main
from gkd_dist.metrics.catalogue import MAX_SERIES
from gkd_dist.metrics.panels import queries
from gkd_dist.metrics.queries import names_in
from gkd_dist.metrics.rules import ALERTS, RECORDINGS
from tests.gkd_process import GkdProcess, Runs
from tests.prometheus import Prometheus, free_port
from tests.tiny_runs import arguments

ENDLESS = "learner.max_steps=100000"
NOT_IN_EVERY_RUN = {
    "gkd_reward_mean",
    "gkd_held_out_reward_mean",
    "gkd_teacher_mass",
    "gkd_replica_restarts_total",
}
"""Of rewards and of `topk`; and restarts are shown only where there were some."""
SPAN_S = 8


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Prometheus]:
    prometheus = Prometheus(tmp_path / "prometheus", free_port())
    yield prometheus
    prometheus.close()


@pytest.fixture
def runs(models: dict[str, Path], data: Path, tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(tmp_path / "job", arguments(models, data, tmp_path))
    yield runs
    runs.end()


def stop(run: GkdProcess) -> None:
    run.send(signal.SIGTERM)
    assert run.ended() == 75, run.said


def check_answers(server: Prometheus) -> None:
    """Every panel of the dashboard has something to show, every rule is evaluated, and the series are bounded."""
    for query in queries('instance=~".+"', f"{SPAN_S}s"):
        if not names_in(query) & NOT_IN_EVERY_RUN:
            assert server.query(query), query
        else:
            server.query(query)  # is understood
    rules = [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(RECORDINGS) + len(ALERTS)
    assert {rule["health"] for rule in rules} == {"ok"}, rules
    assert 100 < server.value('count({__name__=~"gkd_.*"})') <= MAX_SERIES
    assert server.query("gkd:bottleneck:ratio_rate5m")[0]["metric"]["part"] in {"sampling", "scoring", "learning"}


def test_throughput_by_promql_is_that_of_the_records(server: Prometheus, runs: Runs) -> None:
    run = runs.start(ENDLESS, "checkpoint.save_steps=5", f"metrics.port={server.scraped_port}")
    server.until(f"gkd_learner_steps_total and gkd_learner_steps_total offset {SPAN_S + 2}s > 2", lambda n: n > 12)
    check_answers(server)
    (found,) = server.query("gkd_run_info")
    assert found["metric"]["component"] == "controller"
    assert found["metric"]["run"] == runs.directory.path.name
    steps, tokens = (server.samples(f"gkd_learner_{name}_total", "1h") for name in ("steps", "trained_tokens"))
    rate = server.value(f"rate(gkd_learner_trained_tokens_total[{SPAN_S}s])", at=max(tokens))
    last = {at: count for at, count in steps.items() if at > max(steps) - SPAN_S}
    stop(run)
    records = [runs.steps[step] for step in sorted(runs.steps)]
    totals = [0.0, *accumulate(record["trained_tokens"] for record in records)]
    assert steps.keys() == tokens.keys() and len(steps) > 20
    for at, count in steps.items():  # a scrape may fall between the two counters of one step
        assert tokens[at] in {totals[int(count)], totals[max(0, int(count) - 1)]}
    spent = records[int(min(last.values())) : int(max(last.values()))]
    per_second = sum(record["trained_tokens"] for record in spent) / sum(record["step_s"] for record in spent)
    assert rate == pytest.approx(per_second, rel=0.25)  # its ends do not fall on those of steps


@pytest.mark.ray
def test_a_sampler_that_joins_appears_while_prometheus_goes_on(
    server: Prometheus, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # short: names of sockets have a limit
        run = runs.start(
            ENDLESS,
            "checkpoint.save_steps=5",
            "cluster.mode=ray",
            "mode=async",
            "metrics.ray_bridge=true",
            "cluster.object_store_bytes=100000000",
            "cluster.num_cpus_per_sampler=0.1",
            "cluster.num_cpus_per_teacher=0.1",
            "cluster.num_cpus_learner=0.1",
            f"metrics.port={server.scraped_port}",
            RAY_TMPDIR=folder,
        )
        pid = server.pid
        server.until("gkd_policy_version", lambda version: version >= 5)
        healthy = 'gkd_replicas{role="sampler", state="healthy"}'
        assert server.value(healthy) == 1
        joined = 'gkd_replica_weight_version{slot="1"}'
        assert not server.query(joined)
        assert main(["scale", "latest", "--samplers", "2", "--output-dir", str(runs.output)]) == 0
        server.until(healthy, lambda number: number == 2)
        version = server.until(joined, lambda version: version > 0)
        assert server.until("gkd_policy_version", lambda now: now >= version) >= version
        assert server.pid == pid
        server.until(f"gkd_learner_steps_total and gkd_learner_steps_total offset {SPAN_S + 2}s", lambda n: n > 5)
        check_answers(server)
        check_bridge(run)
        stop(run)


def check_bridge(run: GkdProcess) -> None:
    """The same numbers are in what Ray serves."""
    words = [word for process in run.family("metrics-export-port") for word in process.cmdline()]
    port = next(match[1] for word in words if (match := re.search(r"metrics[-_]export[-_]port=(\d+)", word)))

    def served() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    run.until(lambda: "ray_gkd_learner_steps_total{" in served())
    text = served()
    for name in ("gkd_run_info", "gkd_build_info", "gkd_policy_version", "gkd_step_seconds_bucket", "gkd_replicas"):
        assert f"ray_{name}{{" in text, name
