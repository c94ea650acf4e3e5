"""Every metric of the catalogue is set by a run, under every value of its labels: no panel stays empty."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from gkd_dist.commands import _name_run
from gkd_dist.config.load import load_run_config
from gkd_dist.config.objective import ScheduleConfig
from gkd_dist.data.mixture import Mixture
from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.data.prompts import PromptStream, RenderedRow
from gkd_dist.metrics.catalogue import DEFINITIONS
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.baselines import MovingAverage
from gkd_dist.pipeline.evaluation import HeldOut
from gkd_dist.pipeline.job import distil
from gkd_dist.pipeline.ring import Plan, Reinforcement
from gkd_dist.testing.fakes import FakeLearner, FakeMetrics, FakeReward, FakeSampler, FakeTeacher
from gkd_dist.types import Answer, Prompt, SampleId, SamplingParams
from tests.fleets import fleet_of

OF_THE_EXPORTER = {"gkd_build_info"}
"""Set by the exporter itself."""


def a_run(metrics: FakeMetrics) -> None:
    """Two steps over fakes, with evaluations; some completions stop, others reach the limit."""
    sampling = SamplingParams(max_new_tokens=3, stop_token_ids=(9,))
    rows = [RenderedRow(np.asarray([3, 7 + 10 * (n % 2)], np.int32), np.asarray([7, 9], np.int32)) for n in range(4)]
    plan = Plan(
        stream=PromptStream(rows, run="test", seed=0, shuffle=False),
        mixture=Mixture(0.5, "per_sequence", ScheduleConfig(), batch_size=4, seed=0, max_steps=2),
        sampling=sampling,
        batch_size=4,
        max_steps=2,
        max_staleness=0,
        replay_capacity=4,
        save_steps=0,
        sentinel_steps={},
        checkpoints=Path("checkpoints"),
        reinforcement=Reinforcement(lambda _: Answer("", "a word", None), lambda: MovingAverage(0.9)),
    )
    prompt = Prompt(SampleId("test:held-out", 0), rows[0].prompt_ids)
    pair = fixed_trajectory(prompt.sample_id, prompt.token_ids, np.asarray([7, 9], np.int32), 3)
    accounts = StepAccounts(max_steps=2, metrics=metrics, sinks=[])
    work = distil(
        plan,
        fleet_of([FakeSampler()], {"teacher": [FakeTeacher()]}, FakeLearner(), FakeReward()),
        accounts,
        held_out=HeldOut([prompt], [pair], sampling, num_shown=0, answer_of=lambda _: Answer("", "a word", None)),
        metrics=metrics,
        final=Path("final"),
        narrate=lambda _: None,
    )
    asyncio.run(asyncio.wait_for(work, timeout=20))


def test_a_run_and_the_door_set_everything_there_is() -> None:
    metrics = FakeMetrics()
    a_run(metrics)
    config = load_run_config("quickstart")
    _name_run(metrics, config, SimpleNamespace(name="quickstart-1"))  # type: ignore[arg-type]
    seen = {(name, label, value) for _, name, _, labels in metrics.calls for label, value in labels.items()}
    names = {name for _, name, _, _ in metrics.calls}
    assert names | OF_THE_EXPORTER == {definition.name for definition in DEFINITIONS}
    for definition in DEFINITIONS:
        for label, values in definition.labels.items():
            assert {(definition.name, label, value) for value in values} <= seen
