"""Encoder-decoder students and teachers through the whole ring: one process, then Ray."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from gkd_dist.cli import main
from tests import tiny
from tests.tiny_runs import arguments, losses, records


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student of version 1.0 and a teacher of 1.1, with more rows in their heads than the tokenizer has ids."""
    folder = tmp_path_factory.mktemp("models")
    rows = tiny.VOCABULARY + 28
    return {
        "student": tiny.save_t5(folder / "student", seed=1, vocab_size=rows, dropout=0.1),
        "teacher": tiny.save_t5(folder / "teacher", seed=2, vocab_size=rows, tie_word_embeddings=False),
    }


def test_a_run_in_one_process_saves_a_student_that_transformers_and_a_next_run_load(
    models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    assert main(["run", *arguments(models, data, tmp_path, "learner.gradient_checkpointing=true")]) == 0
    summary = json.loads((tmp_path / "latest" / "summary.json").read_text())
    key = "reference/forward_kl_nats"
    assert summary["after"][key] < summary["before"][key]
    final = (tmp_path / "latest" / "final").resolve()
    trained, source = (AutoModelForSeq2SeqLM.from_pretrained(path) for path in (final, models["student"]))
    assert type(trained) is type(source)
    assert not torch.equal(trained.shared.weight, source.shared.weight)
    assert trained.config.dropout_rate == 0.1
    again = models | {"student": final}
    assert main(["run", *arguments(again, data, tmp_path / "again", "learner.max_steps=1")]) == 0


def test_every_transport_trains_and_the_exact_ones_agree(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """To 1e-4: the teacher's log-softmax is taken on one side or on the other, in float32."""
    fixed = ("objective.divergence=reverse_kl", "objective.student_fraction=1", "evaluation.enabled=false")
    for transport in ("hidden", "full", "topk", "sampled"):
        assert (
            main(["run", *arguments(models, data, tmp_path / transport, *fixed, f"teacher.transport={transport}")]) == 0
        )
    assert losses(tmp_path / "hidden") == pytest.approx(losses(tmp_path / "full"), rel=1e-4)
    assert all(len(losses(tmp_path / transport)) == 4 for transport in ("topk", "sampled"))


@pytest.mark.parametrize("extra", [(), ("sampling.teacher_mix=0.2", "objective.divergence=sequence_reverse_kl")])
def test_rows_that_go_round_alone_train_at_bounded_staleness(
    models: dict[str, Path], data: Path, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    extra = ("mode=async", "learner.max_steps=6", "objective.student_fraction=1", "evaluation.enabled=false", *extra)
    assert main(["run", *arguments(models, data, tmp_path, *extra)]) == 0
    assert len(losses(tmp_path)) == 6
    assert all(record["staleness"] <= 1 for record in records(tmp_path))


@pytest.mark.ray
def test_ray_gives_the_losses_of_one_process(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """To 1e-5; with two samplers, whose batches are others."""
    assert main(["run", *arguments(models, data, tmp_path / "local")]) == 0
    extra = ("cluster.mode=ray", "sampler.num_replicas=2", "cluster.num_cpus_per_sampler=0.25")
    assert main(["run", *arguments(models, data, tmp_path / "ray", *extra)]) == 0
    assert losses(tmp_path / "ray") == pytest.approx(losses(tmp_path / "local"), rel=1e-5)
