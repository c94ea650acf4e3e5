"""Every metric of the catalogue is set by a run, under every value of its labels: no panel stays empty."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from gkd_dist.config.load import load_run_config
from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.data.prompts import PromptStream, RenderedRow
from gkd_dist.distillation.telemetry import name_run
from gkd_dist.metrics.catalogue import DEFINITIONS, STAGES
from gkd_dist.metrics.exporter import Exporter
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.baselines import MovingAverage
from gkd_dist.pipeline.evaluation import HeldOut
from gkd_dist.pipeline.job import distil
from gkd_dist.pipeline.ring import Reinforcement
from gkd_dist.targets import CacheUse
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeReward, FakeSampler, FakeTeacher
from gkd_dist.types import Answer, Prompt, SampleId, SamplingParams, ScoredTrajectory, Source, Trajectory
from tests.fleets import fleet_of
from tests.rings import make_job, make_plan, run

OF_THE_EXPORTER = {"gkd_build_info"}
"""Set by the exporter itself."""
OF_FAULTS = {
    "gkd_checkpoint_failures_total",
    "gkd_learner_restarts_total",
    "gkd_messages_rejected_total",
    "gkd_replica_weight_version",
    "gkd_requests_total",
    "gkd_weight_sync_failures_total",
    "gkd_journal_skipped_total",
    "gkd_replicas",
    "gkd_replicas_target",
    "gkd_replica_restarts_total",
    "gkd_requests_hedged_total",
    "gkd_requests_retried_total",
    "gkd_samples_dropped_total",
    "gkd_score_cache_bytes_total",
    "gkd_score_cache_pairs_total",
}
"""Of replicas that fail and of what is lost: the tests of supervision and of faulty rings set them."""


OF_STEERING = {"gkd_run_stage", "gkd_inflight_prompts"}
"""Shown every second, beside the ring."""


def a_run(metrics: FakeMetrics, folder: Path, fixed_source: Source = Source.GROUND_TRUTH) -> None:
    """Two steps over fakes, with evaluations; some completions stop, others reach the limit."""
    sampling = SamplingParams(max_new_tokens=3, stop_token_ids=(9,))
    rows = [RenderedRow(np.asarray([3, 7 + 10 * (n % 2)], np.int32), np.asarray([7, 9], np.int32)) for n in range(4)]
    plan = make_plan(
        2,
        0.5,
        stream=PromptStream(rows, run="test", seed=0, shuffle=False),
        sampling=sampling,
        fixed_source=fixed_source,
        reinforcement=Reinforcement(lambda _: Answer("", "a word", None), lambda mean: MovingAverage(0.9, mean)),
    )
    prompt = Prompt(SampleId("test:held-out", 0), rows[0].prompt_ids)
    pair = fixed_trajectory(prompt.sample_id, prompt.token_ids, np.asarray([7, 9], np.int32), 3)
    job = make_job(
        plan,
        fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner(), FakeReward()),
        folder,
        metrics,
        save_steps=1,
        held_out=HeldOut([prompt], [pair], sampling, num_shown=0, answer_of=lambda _: Answer("", "a word", None)),
    )
    asyncio.run(asyncio.wait_for(distil(job), timeout=20))


def test_a_run_and_the_door_set_everything_there_is(tmp_path: Path) -> None:
    metrics = FakeMetrics()
    a_run(metrics, tmp_path / "pairs")
    a_run(metrics, tmp_path / "teacher", Source.TEACHER)
    config = load_run_config("quickstart")
    name_run(metrics, config, SimpleNamespace(name="quickstart-1"))  # type: ignore[arg-type]
    seen = {(name, label, value) for _, name, _, labels in metrics.calls for label, value in labels.items()}
    names = {name for _, name, _, _ in metrics.calls}
    assert names | OF_THE_EXPORTER | OF_FAULTS | OF_STEERING == {definition.name for definition in DEFINITIONS}
    for definition in DEFINITIONS:
        if definition.name in OF_FAULTS | OF_STEERING:
            continue
        for label, values in definition.labels.items():
            assert {(definition.name, label, value) for value in values} <= seen


def test_what_the_caches_of_teachers_did_is_counted_and_written_down(tmp_path: Path) -> None:
    """A teacher that keeps what it says about pairs, asked in two steps; its cache is worth 24 bytes a pair."""

    class Keeping(FakeTeacher):
        def cache_use(self) -> CacheUse:
            return CacheUse(num_hits=1, num_misses=2, hit_bytes=24, miss_bytes=48, hit_tokens=3)

    fleet = fleet_of([FakeSampler()], {"teacher": [teacher := Keeping()]}, FakeLearner())
    metrics, sink = run(make_plan(2, 0.5), fleet)
    num_asked = len(teacher.calls)
    assert num_asked >= 2
    totals = {
        (name, labels["result"]): sum(each for _, other, each, more in metrics.calls if (other, more) == (name, labels))
        for _, name, _, labels in metrics.calls
        if name.startswith("gkd_score_cache")
    }
    assert totals == {
        ("gkd_score_cache_pairs_total", "hit"): num_asked,
        ("gkd_score_cache_pairs_total", "miss"): 2 * num_asked,
        ("gkd_score_cache_bytes_total", "hit"): 24 * num_asked,
        ("gkd_score_cache_bytes_total", "miss"): 48 * num_asked,
    }
    assert sum(record["score_cache_hit"] for record in sink.records) == num_asked
    answered = sum(item.trajectory.num_tokens for batch in fleet.learner.batches for item in batch.scored)
    read = sum(each for _, name, each, _ in metrics.calls if name == "gkd_teacher_scored_tokens_total")
    assert read == sum(record["scored_tokens"] for record in sink.records) == answered - 3 * num_asked


def tiny_trajectories() -> list[Trajectory]:
    """Two fixed pairs."""
    ids = np.asarray([3, 4], np.int32)
    return [fixed_trajectory(SampleId("test", index), ids, ids, 3) for index in range(2)]


def test_what_goes_on_now_is_shown_before_it_ends() -> None:
    now = [10.0]
    exporter = Exporter()
    accounts = StepAccounts(max_steps=1, metrics=exporter, sinks=[], clock=lambda: now[0])

    def shown(name: str) -> float:
        return next(float(line.split()[-1]) for line in exporter.text().decode().splitlines() if line.startswith(name))

    with accounts.timed("sample"), accounts.timed("wait"):
        now[0] = 13.0
        with accounts.timed("sample"):  # overlaps, and counts once
            now[0] = 14.0
        assert shown("gkd_learner_wait_seconds_total") == 0
        accounts.show("training", 7)
        assert shown("gkd_learner_wait_seconds_total") == 4
        assert shown('gkd_busy_seconds_total{part="sampling"}') == 4
        assert accounts.spent_s("wait") == 4
        now[0] = 15.0
    assert shown('gkd_busy_seconds_total{part="sampling"}') == shown("gkd_learner_wait_seconds_total") == 5
    assert accounts.spent_s("wait") == 5
    assert shown("gkd_inflight_prompts") == 7
    for stage in STAGES:
        accounts.show(stage, 0)
        assert [each for each in STAGES if shown(f'gkd_run_stage{{stage="{each}"}}')] == [stage]


def test_the_wait_in_the_queue_ends_with_the_first_draw() -> None:
    metrics = FakeMetrics()
    now = [0.0]
    accounts = StepAccounts(max_steps=1, metrics=metrics, sinks=[], clock=lambda: now[0])
    early, late = ([ScoredTrajectory(each, ())] for each in tiny_trajectories())
    accounts.admitted(early)
    now[0] = 2.0
    accounts.admitted(late)
    now[0] = 5.0
    accounts.drawn([*early, *late], 0)
    accounts.drawn(early, 0)  # used a second time
    waits = [value for _, name, value, _ in metrics.calls if name == "gkd_queue_wait_seconds"]
    assert waits == [5.0, 3.0]
