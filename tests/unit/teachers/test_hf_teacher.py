"""The transformers teacher: its own logits, and hidden states only where the learner gets them back."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, MptConfig, MptForCausalLM

from gkd_dist.errors import ConfigError, ModelError
from gkd_dist.targets import FullTargets
from gkd_dist.teachers.hf_teacher import HfTeacher
from gkd_dist.types import ScoredTrajectory
from tests import tiny

SHAPES = [(9, 2), (4, 6), (6, 1)]
"""Shortest prompt 4: three columns are common to all prompts and predict nothing."""


def make_teacher(
    path: Path, transport: str, *, dtype: str = "float32", num_ids: int | None = None, top_k: int | None = None
) -> HfTeacher:
    return HfTeacher(
        path, dtype=dtype, transport=transport, pad_token_id=tiny.PAD, num_ids=num_ids, top_k=top_k, device="cpu"
    )


def score(teacher: HfTeacher, shapes: list[tuple[int, int]] = SHAPES) -> list[ScoredTrajectory]:
    trajectories = tiny.trajectories(shapes)
    return tiny.scored(trajectories, asyncio.run(teacher.score(trajectories)))


@torch.no_grad()
def own_log_probs(model: torch.nn.Module, item: ScoredTrajectory, num_ids: int) -> np.ndarray:
    tokens = np.concatenate([item.trajectory.prompt_ids, item.trajectory.completion_ids])
    logits = model(torch.from_numpy(tokens).long()[None]).logits[0, item.trajectory.prompt_ids.size - 1 : -1, :num_ids]
    return torch.log_softmax(logits.float(), dim=-1).numpy()


def add_hidden_factor(path: Path) -> None:
    """A key that `Readout` applies and Llama's forward does not: the two disagree by a factor of 3."""
    config = AutoConfig.from_pretrained(path)
    config.logit_scale = 3.0
    config.save_pretrained(path)


@pytest.mark.parametrize("num_ids", [tiny.VOCABULARY, 100])
def test_full_targets_are_the_models_own_whatever_the_readout_says(tmp_path: Path, num_ids: int) -> None:
    path = tiny.save_causal(tmp_path, seed=3)
    add_hidden_factor(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    for item in score(make_teacher(path, "full", num_ids=num_ids)):
        assert isinstance(item.scores[0].targets, FullTargets)
        np.testing.assert_allclose(item.scores[0].targets.log_probs, own_log_probs(model, item, num_ids), atol=1e-4)


@pytest.mark.parametrize("shapes", [SHAPES, [(9, 2)], [(5, 5), (4, 5)]])
def test_a_forward_that_never_calls_its_head_is_selected_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: list[tuple[int, int]]
) -> None:
    """It projects all columns; in the last case as many of one row as there are completion tokens in both."""
    path = tiny.save_causal(tmp_path, seed=3)
    teacher, model = make_teacher(path, "full"), AutoModelForCausalLM.from_pretrained(path)
    own = teacher._model

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        hidden = own.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)
        return SimpleNamespace(logits=hidden.last_hidden_state @ own.lm_head.weight.T)

    monkeypatch.setattr(own, "forward", forward)
    for item in score(teacher, shapes):
        np.testing.assert_allclose(
            item.scores[0].targets.log_probs, own_log_probs(model, item, tiny.VOCABULARY), atol=1e-4
        )


def test_only_positions_that_predict_completion_tokens_are_projected(tmp_path: Path) -> None:
    teacher = make_teacher(tiny.save_causal(tmp_path, seed=3), "sampled")
    projected: list[int] = []
    teacher._model.lm_head.register_forward_hook(lambda _, inputs, output: projected.append(output[..., 0].numel()))
    score(teacher)
    assert sum(projected) == sum(completion for _, completion in SHAPES)


@pytest.mark.parametrize("num_ids", [tiny.VOCABULARY, tiny.VOCABULARY + 32])
def test_topk_and_sampled_are_parts_of_the_full_log_probs(tmp_path: Path, num_ids: int) -> None:
    path = tiny.save_causal(tmp_path, seed=3, vocab_size=tiny.VOCABULARY + 32)
    full = score(make_teacher(path, "full", num_ids=num_ids))
    best = score(make_teacher(path, "topk", num_ids=num_ids, top_k=7))
    chosen = score(make_teacher(path, "sampled", num_ids=num_ids))
    for dense, top, sampled in zip(full, best, chosen, strict=True):
        log_probs = dense.scores[0].targets.log_probs
        order = np.argsort(-log_probs, axis=1)[:, :7]
        np.testing.assert_array_equal(top.scores[0].targets.token_ids, order)
        np.testing.assert_allclose(
            top.scores[0].targets.log_probs, np.take_along_axis(log_probs, order, axis=1), atol=1e-5
        )
        ids = dense.trajectory.completion_ids.astype(np.int64)[:, None]
        own = np.take_along_axis(log_probs, ids, axis=1)[:, 0]
        np.testing.assert_allclose(sampled.scores[0].targets.log_probs, own, atol=1e-5)


def test_more_candidates_than_ids_are_refused_before_the_model_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher.top_k: 101 is more than the 100 ids"):
        make_teacher(tmp_path / "nowhere", "topk", num_ids=100, top_k=101)


def test_full_targets_in_bfloat16_have_unrounded_logits(tmp_path: Path) -> None:
    """A logit of 20 in bfloat16 is right to 0.06; here only the body is rounded, and logits take any value."""
    teacher = make_teacher(tiny.save_causal(tmp_path, seed=3), "full", dtype="bfloat16")
    log_probs = torch.from_numpy(score(teacher)[0].scores[0].targets.log_probs.copy())
    differences = log_probs - log_probs[:, :1]
    assert (differences.bfloat16().float() != differences).float().mean() > 0.9


def test_hidden_states_that_do_not_give_back_the_logits_are_refused_by_name(tmp_path: Path) -> None:
    path = tiny.save_causal(tmp_path / "scaled", seed=3)
    make_teacher(path, "hidden")
    add_hidden_factor(path)
    with pytest.raises(ModelError, match=r"scaled \(LlamaForCausalLM\).*not readout.*transport=full"):
        make_teacher(path, "hidden")


def test_hidden_states_in_bfloat16_pass_the_probe(tmp_path: Path) -> None:
    targets = score(make_teacher(tiny.save_causal(tmp_path, seed=3), "hidden", dtype="bfloat16"))[1].scores[0].targets
    assert targets.hidden.dtype == np.uint16


def test_a_teacher_without_a_known_head_can_still_send_full_log_probs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MptConfig(vocab_size=tiny.VOCABULARY, d_model=32, n_heads=2, n_layers=1, max_seq_len=64)
    MptForCausalLM(config).save_pretrained(tmp_path)
    assert score(make_teacher(tmp_path, "full"))[0].scores[0].targets.num_tokens == 2
