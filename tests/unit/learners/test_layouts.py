"""Packed sequences: the same hidden states, loss and gradient as padded or alone, and none sees another."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen3Config,
)

from gkd_dist.config.lora import LoraConfig
from gkd_dist.divergences import ForwardKl
from gkd_dist.errors import ModelError
from gkd_dist.learners.layouts import Layout, PackedLayout, PaddedLayout, choose_layout, packing_problem
from gkd_dist.learners.load import load_student
from gkd_dist.learners.model import StudentModel
from gkd_dist.learners.objective import Distillation
from gkd_dist.learners.step import LossSettings, accumulate_gradient, token_divergences
from gkd_dist.learners.targets import TargetRules, TeacherView
from gkd_dist.targets import FullTargets
from gkd_dist.types import ScoredTrajectory, TrainBatch
from gkd_dist.weights.adapters import adapter_tensors
from tests import tiny

SHAPES = [(5, 7), (1, 3), (9, 1), (4, 12), (6, 6)]
_IDS = {"vocab_size": tiny.VOCABULARY, "bos_token_id": None, "eos_token_id": tiny.STOP, "pad_token_id": tiny.PAD}
_HEADS = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
_SIZES = {"hidden_size": 32, "intermediate_size": 32}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("student"), seed=1)


@pytest.fixture(scope="module")
def scored() -> list[ScoredTrajectory]:
    """Trajectories with a random teacher over the whole vocabulary."""
    trajectories = tiny.trajectories(SHAPES)
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randn(item.num_completion_tokens, tiny.VOCABULARY, generator=generator) for item in trajectories]
    return tiny.scored(trajectories, [FullTargets(torch.log_softmax(row, -1).numpy()) for row in rows])


def settings(layout: Layout, *, bf16: bool = False, max_tokens: int = 40) -> LossSettings:
    teachers = {"teacher": TeacherView(None, 1.0)}
    return LossSettings(
        objective=Distillation(ForwardKl(), teachers, TargetRules(num_ids=tiny.VOCABULARY, bf16=bf16)),
        reduction="sequence_mean",
        bf16=bf16,
        max_micro_batch_tokens=max_tokens,
        pad_token_id=tiny.PAD,
        num_ids=tiny.VOCABULARY,
        layout=layout,
    )


def gradients(
    student: StudentModel, scored: list[ScoredTrajectory], layout: Layout, **changes: object
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step."""
    student.model.zero_grad(set_to_none=True)
    num_tokens = sum(item.trajectory.num_completion_tokens for item in scored)
    batch = TrainBatch(0, tuple(scored), len(scored), num_tokens)
    loss = accumulate_gradient(student, batch, settings(layout, **changes))
    return loss, {name: tensor.grad.clone() for name, tensor in student.named_parameters() if tensor.grad is not None}


@pytest.mark.parametrize("max_tokens", [15, 40, 1000])
def test_loss_and_gradient_do_not_depend_on_packing(
    tmp_path: Path, scored: list[ScoredTrajectory], max_tokens: int
) -> None:
    """In float64, where only the order of sums differs: 1e-12 of the largest gradient entry.

    GPT-2, because Llama computes norms and softmax in float32 whatever its parameters are.
    """
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=128, **_IDS)
    student = load_student(save(tmp_path, config), gradient_checkpointing=False)
    student.model.double()
    padded_loss, padded = gradients(student, scored, PaddedLayout(), max_tokens=max_tokens)
    packed_loss, packed = gradients(student, scored, PackedLayout(), max_tokens=max_tokens)
    assert packed_loss == pytest.approx(padded_loss, rel=1e-12)
    largest = max(gradient.abs().max() for gradient in padded.values())
    assert padded.keys() == packed.keys()
    for name, gradient in padded.items():
        assert (packed[name] - gradient).abs().max() <= 1e-12 * largest, name


@pytest.mark.parametrize(
    ("lora", "checkpointing", "bf16"), list(itertools.product([False, True], [False, True], [False, True]))
)
def test_gradients_agree_for_every_way_to_train(
    path: Path, scored: list[ScoredTrajectory], lora: bool, checkpointing: bool, bf16: bool
) -> None:
    """Packed and checkpointed against padded and plain.

    float32: 1e-5 of the largest entry. bfloat16 rounds every activation to 2**-9 and other shapes round elsewhere:
    the gradients' cosine is above 0.999.
    """

    def load(checkpointing: bool) -> StudentModel:
        student = load_student(path, gradient_checkpointing=checkpointing, lora=LoraConfig(r=4) if lora else None)
        generator = torch.Generator().manual_seed(0)
        for tensor in adapter_tensors(student.model).values():
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
        return student

    expected_loss, expected = gradients(load(False), scored, PaddedLayout(), bf16=bf16)
    loss, found = gradients(load(checkpointing), scored, PackedLayout(), bf16=bf16)
    assert found.keys() == expected.keys()
    assert all(".lora_" in name for name in found) == lora
    assert loss == pytest.approx(expected_loss, rel=2e-2 if bf16 else 1e-5)
    ours, theirs = (torch.cat([part[name].flatten() for name in expected]) for part in (found, expected))
    if bf16:
        assert torch.cosine_similarity(ours, theirs, 0) > 0.999
    else:
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_evaluation_does_not_depend_on_packing(path: Path, scored: list[ScoredTrajectory]) -> None:
    student = load_student(path, gradient_checkpointing=True)
    padded = token_divergences(student, scored, [ForwardKl(), None], settings(PaddedLayout()))
    packed = token_divergences(student, scored, [ForwardKl(), None], settings(PackedLayout()))
    assert packed == pytest.approx(padded, rel=1e-6)


def test_no_sequence_sees_another(path: Path) -> None:
    """Bit for bit: every sequence is multiplied alone."""
    student = load_student(path, gradient_checkpointing=False)
    first, second, third = tiny.trajectories([(5, 7), (3, 9), (8, 4)])
    changed = replace(second, prompt_ids=(second.prompt_ids + 1) % np.int32(tiny.VOCABULARY))
    with torch.no_grad():
        before = PackedLayout().completion_hidden(student, [first, second, third], tiny.PAD)
        after = PackedLayout().completion_hidden(student, [first, changed, third], tiny.PAD)
    assert torch.equal(before[:7], after[:7])
    assert not torch.equal(before[7:16], after[7:16])
    assert torch.equal(before[16:], after[16:])


def test_attention_of_transformers_keeps_sequences_apart_too(path: Path, scored: list[ScoredTrajectory]) -> None:
    """sdpa, as on a GPU: one mask over the whole row."""
    student = load_student(path, gradient_checkpointing=False)
    expected_loss, expected = gradients(student, scored, PaddedLayout())
    student.model.set_attn_implementation("sdpa")
    assert packing_problem(student) is None
    loss, found = gradients(student, scored, PackedLayout())
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert all((found[name] - expected[name]).abs().max() <= 1e-5 * largest for name in expected)


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=128, **_IDS),  # learned positions
        OPTConfig(
            hidden_size=32, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=32, **_IDS
        ),
        Qwen3Config(**_SIZES, **_HEADS, **_IDS),
        MistralConfig(sliding_window=4, **_SIZES, **_HEADS, **_IDS),
        Gemma2Config(sliding_window=4, **_SIZES, **_HEADS, **_IDS),  # soft caps, every second layer sliding
    ],
    ids=lambda config: config.model_type,
)
def test_architectures_that_can_be_packed(tmp_path: Path, config: PretrainedConfig) -> None:
    student = load_student(save(tmp_path, config), gradient_checkpointing=False)
    assert packing_problem(student) is None
    assert choose_layout(student, None) == choose_layout(student, True) == PackedLayout()
    assert choose_layout(student, False) == PaddedLayout()
    trajectories = tiny.trajectories(SHAPES)
    with torch.no_grad():
        packed = PackedLayout().completion_hidden(student, trajectories, tiny.PAD)
        alone = [PaddedLayout().completion_hidden(student, [item], tiny.PAD) for item in trajectories]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(
            hidden_size=32, num_hidden_layers=2, state_size=8, **_IDS
        ),  # a state runs on into the next sequence
        BloomConfig(hidden_size=32, n_layer=2, n_head=2, **_IDS),  # takes no positions
    ],
    ids=lambda config: config.model_type,
)
def test_students_that_would_mix_sequences_are_found(
    tmp_path: Path, config: PretrainedConfig, caplog: pytest.LogCaptureFixture
) -> None:
    student = load_student(save(tmp_path, config), gradient_checkpointing=False)
    with pytest.raises(ModelError, match=r"set learner\.packing=false"):
        choose_layout(student, True)
    assert choose_layout(student, None) == PaddedLayout()
    assert "padded, not packed" in caplog.text


def save(path: Path, config: PretrainedConfig) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(path)
    tiny.save_tokenizer(path)
    return path
