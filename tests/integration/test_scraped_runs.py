"""A real Prometheus beside running jobs: what its queries return is what the run wrote down itself."""

import signal
import tempfile
import urllib.request
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from gkd_dist.cli import main
from gkd_dist.metrics.catalogue import MAX_SERIES, PARTS
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
    "gkd_teacher_mass_ratio",
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
            server.until_answered(query)
        else:
            server.query(query)  # is understood
    rules = [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(RECORDINGS) + len(ALERTS)
    assert {rule["health"] for rule in rules} == {"ok"}, rules
    series = server.until_answered('count({__name__=~"gkd_.*"})')
    assert 100 < float(series[0]["value"][1]) <= MAX_SERIES
    assert server.until_answered("gkd:bottleneck:ratio_rate5m")[0]["metric"]["part"] in PARTS


class Seen:
    """What Prometheus has of the learner's throughput at this moment."""

    def __init__(self, server: Prometheus) -> None:
        self._steps, self._tokens = (
            server.samples(f"gkd_learner_{name}_total", "1h") for name in ("steps", "trained_tokens")
        )
        self._end = max(self._tokens)
        self._rate = server.value(f"rate(gkd_learner_trained_tokens_total[{SPAN_S}s])", at=self._end)

    def check(self, runs: Runs) -> None:
        """It is what the run, which has ended by now, wrote down."""
        records = [runs.steps[step] for step in sorted(runs.steps)]
        totals = [0.0, *accumulate(record["trained_tokens"] for record in records)]
        assert self._steps.keys() == self._tokens.keys() and len(self._steps) > 10
        for at, count in self._steps.items():  # a scrape may fall between the two counters of one step
            assert count <= len(records) + 1  # the last step may end the run before it is written down
            assert count > len(records) or self._tokens[at] in {totals[int(count)], totals[max(0, int(count) - 1)]}
        last = [int(count) for at, count in self._steps.items() if at > self._end - SPAN_S]
        spent = records[min(last) : max(last)]
        per_second = sum(record["trained_tokens"] for record in spent) / sum(record["step_s"] for record in spent)
        assert self._rate == pytest.approx(per_second, rel=0.25)  # its ends do not fall on those of steps


def test_throughput_by_promql_is_that_of_the_records(server: Prometheus, runs: Runs) -> None:
    run = runs.start(ENDLESS, "checkpoint.save_steps=5", f"metrics.port={server.scraped_port}")
    server.until(f"gkd_learner_steps_total and gkd_learner_steps_total offset {SPAN_S + 2}s > 2", lambda n: n > 12)
    check_answers(server)
    (found,) = server.until_answered("gkd_run_info")
    assert found["metric"]["component"] == "controller"
    assert found["metric"]["run"] == runs.directory.path.name
    seen = Seen(server)
    stop(run)
    seen.check(runs)
    for stage, value in (("training", 0), ("ended", 1)):  # it has waited for this scrape
        assert server.value(f'last_over_time(gkd_run_stage{{stage="{stage}"}}[1h])') == value


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
        server.until(healthy, lambda number: number == 1)
        joined = 'gkd_replica_weight_version{slot="1"}'
        assert not server.query(joined)
        assert main(["scale", "latest", "--samplers", "2", "--output-dir", str(runs.output)]) == 0
        server.until(healthy, lambda number: number == 2)
        version = server.until(joined, lambda version: version > 0)
        assert server.until("gkd_policy_version", lambda now: now >= version) >= version
        assert server.pid == pid
        server.until(f"gkd_learner_steps_total and gkd_learner_steps_total offset {SPAN_S + 2}s", lambda n: n > 5)
        check_answers(server)
        check_bridge(run, Path(folder))
        seen = Seen(server)
        stop(run)
        seen.check(runs)


def check_bridge(run: GkdProcess, folder: Path) -> None:
    """The same numbers are in what Ray serves, whose own folder is below this one."""
    (port_file,) = folder.glob("**/session_2*/metrics_export_port_*")
    port = int(port_file.read_text())

    def served() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    once = ("gkd_run_info", "gkd_build_info", "gkd_run_max_steps")  # set long ago, and still there
    names = (*once, "gkd_learner_steps_total", "gkd_policy_version", "gkd_step_seconds_bucket", "gkd_replicas")
    for name in names:
        run.until(lambda name=name: f"ray_{name}{{" in served())  # type: ignore[misc]
