"""What every teacher promises about its own answers, asked of the fake and of real engines as a run builds them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from gkd_dist.build import Blueprint
from gkd_dist.build.teacher import kept_answers
from gkd_dist.checks import TeacherCheck
from gkd_dist.closing import Closing
from gkd_dist.config.run import RunConfig
from gkd_dist.data.golden import golden_sequences
from gkd_dist.data.rendering import Renderer
from gkd_dist.errors import ModelError
from gkd_dist.interfaces import Teacher
from gkd_dist.pipeline.sentinel import check_at_start
from gkd_dist.teachers import readout as readouts
from gkd_dist.teachers.hf_teacher import HfTeacher
from gkd_dist.testing.fakes import FakeLearner, FakeSampler, FakeTeacher
from tests import tiny
from tests.fleets import fleet_of

VLLM = pytest.mark.vllm


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Golden answers of this test go here."""
    monkeypatch.setenv("GKD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def blueprint_of(model: Path, engine: str, transport: str, dtype: str = "float32") -> Blueprint:
    teacher = {"model": str(model), "engine": engine, "transport": transport, "dtype": dtype, "max_model_len": 128}
    config = RunConfig.model_validate(
        {"student": {"model": str(model)}, "teacher": teacher, "sampler": {"max_model_len": 128}}
        | {"sampling": {"max_new_tokens": 16}, "objective": {"divergence": "reverse_kl", "student_fraction": 1.0}}
    )
    return Blueprint(
        config=config,
        student=model,
        teachers={"teacher": model},
        pad_token_id=tiny.PAD,
        num_ids=tiny.VOCABULARY,
        run_epoch="test",
        golden=golden_sequences(Renderer(str(model)), tiny.VOCABULARY, 128),
    )


def with_teacher(
    make: Callable[[], Teacher], use: Callable[[Teacher], Awaitable[list[TeacherCheck]]]
) -> list[TeacherCheck]:
    async def work() -> list[TeacherCheck]:
        async with Closing(await asyncio.to_thread(make)) as teacher:
            return await use(teacher)

    return asyncio.run(work())


async def verify_twice(teacher: Teacher) -> list[TeacherCheck]:
    return [await teacher.verify(), await teacher.verify()]


@pytest.mark.parametrize(
    ("engine", "transport", "dtype"),
    [
        ("fake", "hidden", "float32"),
        *(("hf", transport, "float32") for transport in ("hidden", "topk", "full", "sampled")),
        ("hf", "hidden", "bfloat16"),
        ("hf-t5", "hidden", "float32"),
        ("hf-t5", "topk", "bfloat16"),
        pytest.param("vllm", "hidden", "float32", marks=VLLM),
        pytest.param("vllm", "hidden", "bfloat16", marks=VLLM),
        pytest.param("vllm", "topk", "float32", marks=VLLM),
    ],
)
def test_a_healthy_teacher_passes_at_start_and_again(engine: str, transport: str, dtype: str, tmp_path: Path) -> None:
    engine, _, family = engine.partition("-")
    model = (tiny.save_t5 if family == "t5" else tiny.save_causal)(tmp_path / "teacher", seed=3)

    def make() -> Teacher:
        return (
            FakeTeacher() if engine == "fake" else blueprint_of(model, engine, transport, dtype).make_teacher("teacher")
        )

    first, again = with_teacher(make, verify_twice)
    assert first.passed, str(first)
    assert again.passed, str(again)
    rebuilt = transport == "hidden" and engine != "fake"
    assert first.compared_with.startswith("its engine's own log-probs" if rebuilt else "its first answers")


@VLLM
def test_the_answers_of_vllm_are_kept_and_asked_again_only_for_another_model(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time must not need the engine for log-probs: building one fails."""
    model = tiny.save_causal(tmp_path / "teacher", seed=3)
    blueprint = blueprint_of(model, "vllm", "hidden")
    first = kept_answers(blueprint, blueprint.config.teacher, model).answers
    (kept_file,) = own_cache.glob("golden/*.safetensors")

    def no_engine(*_: object) -> None:
        raise AssertionError("asked for an engine")

    monkeypatch.setattr("gkd_dist.build.teacher._vllm_teacher", no_engine)
    found = kept_answers(blueprint, blueprint.config.teacher, model)
    np.testing.assert_array_equal(found.answers.token_ids, first.token_ids)
    np.testing.assert_array_equal(found.answers.log_probs, first.log_probs)
    assert f"kept in {kept_file} (delete it to ask again)" in found.origin
    with pytest.raises(AssertionError, match="asked for an engine"):
        kept_answers(replace(blueprint, golden=blueprint.golden[1:]), blueprint.config.teacher, model)


def refusal(make: Callable[[], Teacher]) -> str:
    async def start(teacher: Teacher) -> list[TeacherCheck]:
        return await check_at_start(fleet_of([FakeSampler()], {"teacher": [teacher]}, FakeLearner()))

    with pytest.raises(ModelError) as caught:
        with_teacher(make, start)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@VLLM
def test_a_factor_that_vllm_applies_and_the_readout_does_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's Llama multiplies its logits by `logit_scale`; this readout is made to ignore the key."""
    model = tiny.save_causal(tmp_path / "teacher", seed=3)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"logit_scale": 0.5}))
    monkeypatch.setattr("gkd_dist.divergences.scaling.SCALES", ())
    monkeypatch.setattr("gkd_dist.teachers.verified.FACTORS", {})
    message = refusal(lambda: blueprint_of(model, "vllm", "hidden").make_teacher("teacher"))
    assert message.startswith("teacher 0 is refused: top-1 agreement 100.0%, largest difference")


@VLLM
def test_a_head_that_was_replaced_under_the_learner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine has loaded one head, the readout finds another."""
    model = tiny.save_causal(tmp_path / "teacher", seed=3, tie_word_embeddings=False)
    other = tiny.save_causal(tmp_path / "other", seed=4, tie_word_embeddings=False)

    def make() -> Teacher:
        teacher = blueprint_of(model, "vllm", "hidden").make_teacher("teacher")
        tensors = load_file(model / "model.safetensors")
        tensors["lm_head.weight"] = load_file(other / "model.safetensors")["lm_head.weight"]
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
        return teacher

    assert "compared with its engine's own log-probs" in refusal(make)


def test_a_readout_that_is_not_the_models_is_refused_before_an_hf_teacher_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.save_causal(tmp_path / "teacher", seed=3)
    make = blueprint_of(model, "hf", "hidden").make_teacher
    monkeypatch.setattr(
        readouts, "load_readout", lambda *_, load=readouts.load_readout, **kwargs: wrong(load(*_, **kwargs))
    )
    assert "0 is refused" in refusal(lambda: make("teacher"))


def test_an_hf_teacher_that_cannot_answer_for_itself_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, closed = tiny.save_causal(tmp_path / "teacher", seed=3), []

    async def fail(*_: object) -> None:
        raise MemoryError

    async def close(self: HfTeacher) -> None:
        closed.append(self)

    monkeypatch.setattr(HfTeacher, "own_log_probs", fail)
    monkeypatch.setattr(HfTeacher, "close", close)
    with pytest.raises(MemoryError):
        blueprint_of(model, "hf", "hidden").make_teacher("teacher")
    assert len(closed) == 1


def wrong(readout):
    return replace(readout, logit_scale=1.1)
