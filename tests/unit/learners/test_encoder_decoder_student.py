"""Encoder-decoder students: loss and gradient against transformers' own T5 forward, and what is saved and published."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, BartConfig, BartForConditionalGeneration, T5ForConditionalGeneration

from gkd_dist.config.lora import LoraConfig
from gkd_dist.divergences import ForwardKl, ReverseKl
from gkd_dist.errors import ModelError
from gkd_dist.learners.checkpoint import save_student
from gkd_dist.learners.layouts import PaddedLayout, choose_layout
from gkd_dist.learners.load import load_student
from gkd_dist.learners.model import StudentModel
from gkd_dist.learners.objective import Distillation
from gkd_dist.learners.step import LossSettings, accumulate_gradient, token_divergences
from gkd_dist.learners.targets import TargetRules, TeacherView
from gkd_dist.models.adapters import merge
from gkd_dist.samplers.hf_sampler import HfSampler
from gkd_dist.targets import FullTargets
from gkd_dist.types import SamplingParams, ScoredTrajectory, TrainBatch, Trajectory
from gkd_dist.weights.publisher import WeightPublisher
from tests import tiny

SHAPES = [(5, 7), (1, 3), (9, 1), (4, 12), (6, 6)]
NUM_ROWS = tiny.VOCABULARY + 28
"""As T5 has 32,128 rows for 32,100 ids."""


@pytest.fixture(scope="module", params=[True, False], ids=["1.0", "1.1"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    return tiny.save_t5(folder, seed=1, vocab_size=NUM_ROWS, tie_word_embeddings=request.param, dropout=0.1)


@pytest.fixture(scope="module")
def scored() -> list[ScoredTrajectory]:
    """Trajectories with a random teacher; one completion ends with the stop id and holds the padding id, which is the
    decoder's first id too."""
    trajectories = tiny.trajectories(SHAPES)
    last = trajectories[0]
    ids = np.concatenate([[tiny.PAD], last.completion_ids[1:-1], [tiny.STOP]]).astype(np.int32)
    trajectories[0] = replace(last, completion_ids=ids)
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randn(item.num_completion_tokens, tiny.VOCABULARY, generator=generator) for item in trajectories]
    return tiny.scored(trajectories, [FullTargets(torch.log_softmax(row, -1).numpy()) for row in rows])


def settings(student: StudentModel, max_tokens: int = 40) -> LossSettings:
    teachers = {"teacher": TeacherView(None, 1.0)}
    return LossSettings(
        objective=Distillation(ForwardKl(), teachers, TargetRules(num_ids=tiny.VOCABULARY)),
        reduction="sequence_mean",
        bf16=False,
        max_micro_batch_tokens=max_tokens,
        pad_token_id=tiny.PAD,
        num_ids=tiny.VOCABULARY,
        layout=choose_layout(student, None),
    )


def step(student: StudentModel, scored: list[ScoredTrajectory], max_tokens: int) -> tuple[float, dict[str, np.ndarray]]:
    student.model.zero_grad(set_to_none=True)
    num_tokens = sum(item.trajectory.num_completion_tokens for item in scored)
    batch = TrainBatch(0, tuple(scored), len(scored), num_tokens)
    loss = accumulate_gradient(student, batch, settings(student, max_tokens))
    return loss, {name: each.grad.numpy().copy() for name, each in student.named_parameters() if each.grad is not None}


def reference(path: Path, scored: list[ScoredTrajectory]) -> tuple[float, dict[str, np.ndarray]]:
    """Forward KL of each sequence alone, float64: labels shifted right by hand, logits cut before the softmax."""
    model = T5ForConditionalGeneration.from_pretrained(path).double().eval()
    loss = torch.zeros((), dtype=torch.float64)
    for item in scored:
        labels = torch.from_numpy(item.trajectory.completion_ids.copy()).long()
        shifted = torch.cat([torch.tensor([tiny.PAD]), labels[:-1]])
        prompt = torch.from_numpy(item.trajectory.prompt_ids.copy()).long()
        logits = model(input_ids=prompt[None], decoder_input_ids=shifted[None]).logits[0, :, : tiny.VOCABULARY]
        log_p = torch.from_numpy(item.scores[0].targets.log_probs.copy()).double()
        divergence = (log_p.exp() * (log_p - torch.log_softmax(logits, dim=-1))).sum(-1)
        loss = loss + divergence.mean() / len(scored)
    loss.backward()
    return loss.item(), {name: each.grad.numpy() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize(("max_tokens", "checkpointing"), [(12, False), (40, False), (1000, False), (40, True)])
def test_loss_and_gradient_are_those_of_t5_itself(
    path: Path, scored: list[ScoredTrajectory], max_tokens: int, checkpointing: bool
) -> None:
    """Whatever shares a forward. 2e-5 of the largest entry: ours is float32 in padded batches."""
    expected_loss, expected = reference(path, scored)
    loss, found = step(load_student(path, gradient_checkpointing=checkpointing), scored, max_tokens)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert found.keys() == expected.keys()
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert np.abs(found[name] - gradient).max() <= 2e-5 * largest, name


def test_evaluation_is_the_token_mean_of_the_reference(path: Path, scored: list[ScoredTrajectory]) -> None:
    student = load_student(path, gradient_checkpointing=True)
    together = token_divergences(student, scored, [ForwardKl(), ReverseKl()], settings(student))
    alone = [token_divergences(student, [item], [ForwardKl(), ReverseKl()], settings(student)) for item in scored]
    assert together == pytest.approx([sum(column) for column in zip(*alone, strict=True)], rel=1e-5)


def test_packing_is_refused_by_its_key_and_never_chosen(path: Path) -> None:
    student = load_student(path, gradient_checkpointing=False)
    assert choose_layout(student, None) == choose_layout(student, False) == PaddedLayout(student.family)
    with pytest.raises(ModelError, match=r"prompts are in the encoder.*set learner\.packing=false"):
        choose_layout(student, True)


def test_a_saved_student_is_the_trained_one_in_transformers(
    path: Path, scored: list[ScoredTrajectory], tmp_path: Path
) -> None:
    """After two saves too: whether version 1.1 scales is written in another way than it is read.

    Logits to 1e-5: transformers chooses another attention than the learner on a CPU.
    """
    student = load_student(path, gradient_checkpointing=False)
    step(student, scored, 40)
    torch.optim.SGD(student.model.parameters(), lr=0.1).step()
    save_student(student, tmp_path / "once", source=path)
    save_student(load_student(tmp_path / "once", gradient_checkpointing=False), tmp_path / "twice", source=path)
    inputs = {"input_ids": torch.arange(2, 9)[None], "decoder_input_ids": torch.arange(9)[None]}
    with torch.no_grad():
        expected = student.model(**inputs).logits
        for name in ("once", "twice"):
            saved = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name).eval()
            torch.testing.assert_close(saved(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
            weights = dict(saved.named_parameters())
            assert all(torch.equal(weights[name], tensor) for name, tensor in student.named_parameters())
            assert saved.config.dropout_rate == 0.1


def test_what_is_published_is_what_the_sampler_writes_with(
    path: Path, scored: list[ScoredTrajectory], tmp_path: Path
) -> None:
    student = load_student(path, gradient_checkpointing=False)
    step(student, scored, 40)
    torch.optim.SGD(student.model.parameters(), lr=0.5).step()
    save_student(student, tmp_path / "trained", source=path)
    params = SamplingParams(12, stop_token_ids=(tiny.STOP,), seed=4)

    async def write(folder: Path, update: bool) -> list[Trajectory]:
        sampler = HfSampler(folder, dtype="float32", pad_token_id=tiny.PAD, num_ids=tiny.VOCABULARY)
        if update:
            await sampler.load_weights(WeightPublisher("e", 1 << 14, "float32").publish(student.published(), 1))
        written = await sampler.sample(tiny.prompts([3, 8, 5]), params)
        await sampler.close()
        return written

    updated, fresh = asyncio.run(write(path, True)), asyncio.run(write(tmp_path / "trained", False))
    for one, other in zip(updated, fresh, strict=True):
        np.testing.assert_array_equal(one.completion_ids, other.completion_ids)
        np.testing.assert_array_equal(one.behaviour_log_probs, other.behaviour_log_probs)


def test_adapters_train_alone_and_are_merged_into_what_is_saved(
    path: Path, scored: list[ScoredTrajectory], tmp_path: Path
) -> None:
    lora = LoraConfig(r=4, target_modules=("q", "v"), save="adapter")
    student = load_student(path, gradient_checkpointing=False, lora=lora)
    _, gradients = step(student, scored, 40)
    assert gradients
    assert all(".lora_" in name for name in gradients)
    torch.optim.SGD([each for each in student.model.parameters() if each.requires_grad], lr=5.0).step()
    save_student(student, tmp_path / "adapter", source=path)
    merge(tmp_path / "adapter", path, tmp_path / "merged")
    merged = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged").eval()
    inputs = {"input_ids": torch.arange(2, 9)[None], "decoder_input_ids": torch.arange(9)[None]}
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, student.model(**inputs).logits, atol=1e-4, rtol=1e-4)


def test_an_encoder_with_positions_of_its_own_is_read_as_alone(tmp_path: Path, scored: list[ScoredTrajectory]) -> None:
    """BART counts positions from the first column: prompts must begin there. Its bias is zero, as published."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=tiny.VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        pad_token_id=tiny.PAD,
        bos_token_id=2,
        eos_token_id=tiny.STOP,
        decoder_start_token_id=tiny.STOP,
        forced_eos_token_id=None,
    )
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny.save_tokenizer(tmp_path)
    student = load_student(tmp_path, gradient_checkpointing=False)
    trajectories = [item.trajectory for item in scored]
    layout = choose_layout(student, None)
    with torch.no_grad():
        together = layout.completion_hidden(student, trajectories, tiny.PAD)
        alone = torch.cat([layout.completion_hidden(student, [item], tiny.PAD) for item in trajectories])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    sampler = HfSampler(tmp_path, dtype="float32", pad_token_id=tiny.PAD, num_ids=None)
    params, prompts = SamplingParams(8, seed=2), tiny.prompts([9, 2])
    for item in asyncio.run(sampler.sample(prompts, params)):
        ids = torch.from_numpy(item.completion_ids).long()
        shifted = torch.cat([torch.tensor([tiny.STOP]), ids[:-1]])[None]
        with torch.no_grad():
            logits = student.model(torch.from_numpy(item.prompt_ids).long()[None], decoder_input_ids=shifted).logits[0]
        own = torch.log_softmax(logits, dim=-1).gather(1, ids[:, None])[:, 0]
        np.testing.assert_allclose(item.behaviour_log_probs, own.numpy(), atol=1e-4)
