"""What every teacher promises, asked of the fake, of transformers (both families), of vLLM and of a server."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from gkd_dist.interfaces import Teacher
from gkd_dist.targets import FullTargets, HiddenTargets, SampledTargets, TeacherTargets, TopKTargets
from gkd_dist.teachers.prompt_log_probs import PromptScoring, SampledScoring, TopKScoring
from gkd_dist.testing.fakes import FakeTeacher
from gkd_dist.types import Trajectory
from tests import plain_forwards, tiny
from tests.serving import VllmServe

SHAPES = [(5, 7), (1, 1), (9, 3), (2, 12), (300, 2), (40, 1)]
"""Of prompt and completion. The longest is cut into two steps by the small engines here."""
MAX_MODEL_LEN = 320
NUM_ROWS = 160
"""Rows of the model's head where its padding may be left out; the tokenizer knows the first 128 ids."""
TOP_K = 6


@dataclass
class Bench:
    teacher: Teacher
    transport: str
    runner: asyncio.Runner
    model: Path | None

    def score(self, trajectories: list[Trajectory]) -> list[TeacherTargets]:
        return self.runner.run(self.teacher.score(trajectories))


def scoring(transport: str) -> PromptScoring:
    return TopKScoring(TOP_K, tiny.VOCABULARY) if transport == "topk" else SampledScoring()


def make_teacher(engine: str, transport: str, model: Path) -> Teacher:
    if engine == "fake":
        return FakeTeacher(transport=transport)
    if engine in ("hf", "hf-t5"):
        from gkd_dist.teachers.hf_teacher import HfTeacher

        return HfTeacher(
            model, dtype="float32", transport=transport, pad_token_id=tiny.PAD, num_ids=tiny.VOCABULARY, top_k=TOP_K
        )
    if transport == "hidden":
        from gkd_dist.teachers.vllm_teacher import VllmTeacher

        return VllmTeacher(str(model), dtype="float32", max_model_len=MAX_MODEL_LEN, engine_args={})
    from gkd_dist.teachers.vllm_log_prob_teacher import VllmLogProbTeacher

    return VllmLogProbTeacher(
        str(model),
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        scoring=scoring(transport),
        num_ids=tiny.VOCABULARY,
        engine_args={"max_num_batched_tokens": 256},
    )


def connect(transport: str, server: VllmServe, model: Path) -> Teacher:
    from gkd_dist.teachers.endpoint import Endpoint
    from gkd_dist.teachers.server_teacher import ServerTeacher

    return ServerTeacher(
        Endpoint(server.url, api_key_env=None, timeout_s=60, max_retries=1),
        model=model,
        served_model_name=None,
        max_model_len=MAX_MODEL_LEN,
        scoring=scoring(transport),
        num_rows=tiny.VOCABULARY,
        num_ids=tiny.VOCABULARY,
        max_concurrent_requests=4,
        deadline_s=120,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VllmServe, Path]]:
    model = tiny.save_causal(tmp_path_factory.mktemp("served"), seed=3)
    serve = VllmServe(model, model / "serve.log", "--max-model-len", str(MAX_MODEL_LEN + 1))
    try:
        serve.start()
        serve.wait()
        yield serve, model
    finally:
        serve.kill()


HF = [(engine, transport) for engine in ("hf", "hf-t5") for transport in ("hidden", "full", "topk", "sampled")]
FAKE = [("fake", transport) for transport in ("hidden", "full", "topk", "sampled")]
VLLM = [("vllm", transport) for transport in ("hidden", "topk", "sampled")]
SERVER = [("server", transport) for transport in ("topk", "sampled")]


@pytest.fixture(
    scope="module",
    params=[*FAKE, *HF, *(pytest.param(pair, marks=pytest.mark.vllm) for pair in VLLM + SERVER)],
    ids="-".join,
)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    engine, transport = request.param
    with asyncio.Runner() as runner:
        if engine == "server":
            server, model = request.getfixturevalue("server")
            teacher = connect(transport, server, model)
        else:
            save = tiny.save_t5 if engine == "hf-t5" else tiny.save_causal
            model = save(tmp_path_factory.mktemp("teacher"), seed=3, vocab_size=NUM_ROWS)
            teacher = make_teacher(engine, transport, model)
        yield Bench(teacher, transport, runner, None if engine == "fake" else model)
        runner.run(teacher.close())


def test_every_completion_token_is_scored_in_order(bench: Bench) -> None:
    """In the order given: scored alone, each trajectory says the same."""
    trajectories = tiny.trajectories(SHAPES)
    targets = bench.score(trajectories)
    assert [item.num_tokens for item in targets] == [completion for _, completion in SHAPES]
    kinds = {"hidden": HiddenTargets, "full": FullTargets, "topk": TopKTargets, "sampled": SampledTargets}
    assert {type(item) for item in targets} == {kinds[bench.transport]}


def test_a_score_does_not_depend_on_its_neighbours(bench: Bench) -> None:
    """To 1e-4: padding changes the order of summation in float32, no more."""
    trajectories = tiny.trajectories(SHAPES)
    for index, together in enumerate(bench.score(trajectories)):
        (alone,) = bench.score(trajectories[index : index + 1])
        np.testing.assert_allclose(_numbers(together), _numbers(alone), atol=1e-4)


def test_the_same_trajectory_scores_the_same_twice(bench: Bench) -> None:
    """Bit for bit alone; engines that batch as requests arrive may round otherwise together."""
    (trajectory,) = tiny.trajectories(SHAPES[:1])
    (first,), (second,) = bench.score([trajectory]), bench.score([trajectory])
    np.testing.assert_array_equal(_numbers(first), _numbers(second))


def test_overlapping_calls_answer_their_own_callers(bench: Bench) -> None:
    trajectories = tiny.trajectories(SHAPES)

    async def both() -> list[list[TeacherTargets]]:
        return await asyncio.gather(bench.teacher.score(trajectories[:2]), bench.teacher.score(trajectories[2:]))

    apart = [item for part in bench.runner.run(both()) for item in part]
    for one, other in zip(apart, bench.score(trajectories), strict=True):
        np.testing.assert_allclose(_numbers(one), _numbers(other), atol=1e-4)


def test_log_probs_are_sorted_finite_and_at_most_0(bench: Bench) -> None:
    if bench.transport == "hidden":
        pytest.skip("hidden states are no log-probs")
    for item in bench.score(tiny.trajectories(SHAPES)):
        assert np.isfinite(item.log_probs).all()
        assert item.log_probs.max() <= 0
        if isinstance(item, TopKTargets):
            assert item.token_ids.shape == (item.num_tokens, TOP_K)
            assert (np.diff(item.log_probs, axis=1) <= 0).all()
            assert all(len(set(row)) == TOP_K for row in item.token_ids.tolist())
            assert item.token_ids.min() >= 0
            assert item.token_ids.max() < tiny.VOCABULARY


def test_what_is_sent_is_the_models_own_distribution(bench: Bench) -> None:
    """Log-probs within 1e-4 of a float64 softmax of transformers' logits over the real ids; KL below 1e-5 nats."""
    if bench.model is None:
        pytest.skip("the fake has no model to compare with")
    model = plain_forwards.load(bench.model)
    trajectories = tiny.trajectories(SHAPES)
    for trajectory, item in zip(trajectories, bench.score(trajectories), strict=True):
        expected = _log_probs(model, trajectory)
        if isinstance(item, TopKTargets):
            best = expected.topk(TOP_K)
            _assert_same_ids(item.token_ids, best.indices.numpy(), expected.numpy())
            np.testing.assert_allclose(item.log_probs, best.values.numpy(), atol=1e-4)
            own = np.take_along_axis(expected.numpy(), item.token_ids.astype(np.int64), axis=1)
            np.testing.assert_allclose(item.log_probs, own, atol=1e-4)
        elif isinstance(item, SampledTargets):
            ids = torch.from_numpy(trajectory.completion_ids).long()[:, None]
            np.testing.assert_allclose(item.log_probs, expected.gather(1, ids)[:, 0].numpy(), atol=1e-4)
        else:
            kl = (expected.exp() * (expected - _rebuilt(model, item))).sum(-1)
            assert kl.abs().max().item() < 1e-5


def _assert_same_ids(found: np.ndarray, expected: np.ndarray, log_probs: np.ndarray) -> None:
    """Ids may trade places only where their log-probs agree to rounding."""
    rows, columns = np.nonzero(found != expected)
    gaps = log_probs[rows, found[rows, columns]] - log_probs[rows, expected[rows, columns]]
    assert np.abs(gaps).max(initial=0.0) < 1e-4
    assert rows.size < 0.05 * found.size


def _numbers(targets: TeacherTargets) -> np.ndarray:
    return targets.hidden if isinstance(targets, HiddenTargets) else targets.log_probs


@torch.no_grad()
def _log_probs(model: PreTrainedModel, trajectory: Trajectory) -> torch.Tensor:
    """[L, V] float64 over the ids the tokenizer knows."""
    logits = plain_forwards.completion_logits(model, trajectory.prompt_ids, trajectory.completion_ids)
    return torch.log_softmax(logits[:, : tiny.VOCABULARY].double(), dim=-1)


@torch.no_grad()
def _rebuilt(model: PreTrainedModel, targets: HiddenTargets | FullTargets) -> torch.Tensor:
    if isinstance(targets, FullTargets):
        return torch.from_numpy(targets.log_probs.copy()).double()
    logits = plain_forwards.logits_of(model, torch.from_numpy(targets.hidden.copy()))[:, : tiny.VOCABULARY]
    return torch.log_softmax(logits.double(), dim=-1)
