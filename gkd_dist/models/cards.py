"""Model card of a distilled student, as markdown (floor F3; writes nothing, asks no network)."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from huggingface_hub import ModelCardData

BASE_TAGS = ("knowledge-distillation", "on-policy-distillation", "gkd")


@dataclass(frozen=True)
class DistillationFacts:
    """What a model card says about one distillation run."""

    name: str
    student: str
    """Model the student started from."""
    teacher: str
    """Empty where there was none."""
    divergence: str
    student_fraction: float
    """lambda of the paper."""
    num_steps: int
    num_trained_tokens: int
    adapter_of: str | None = None
    """Base model of a saved low-rank adapter; None for a whole model."""
    transport: str = ""
    """What the teacher sent, and what that means for the metrics; left out where empty."""
    alpha: float = 1.0
    """Share of the divergence in the objective; the rest is the reward's."""
    reward: str = ""
    """Where alpha is below 1."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Final numbers by name, units in the name (`held_out/forward_kl_nats`)."""


def model_card(facts: DistillationFacts, *, license: str | None = None, tags: tuple[str, ...] = ()) -> str:
    """Markdown of README.md: a YAML head that the hub reads, then how the student was made.

    Args:
        facts: the run.
        license: SPDX name in lower case (`apache-2.0`); None leaves it out.
        tags: further tags.
    """
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", facts.student) is not None
    adapter = facts.adapter_of is not None
    head = ModelCardData(
        base_model=facts.student if on_hub else None,  # the hub rejects folders and package names here
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        license=license,
        tags=[*(BASE_TAGS if facts.teacher else ["sft"]), *(["lora"] if adapter else []), *tags],
    )
    rows = [
        ("student", facts.student),
        *([("teacher", facts.teacher)] if facts.teacher else []),
        *([("teacher transport", facts.transport)] if facts.transport else []),
        ("divergence", facts.divergence),
        ("student fraction (lambda)", f"{facts.student_fraction:g}"),
        *([("reward", facts.reward), ("share of the divergence (alpha)", f"{facts.alpha:g}")] if facts.reward else []),
        ("train steps", f"{facts.num_steps:,}"),
        ("trained tokens", f"{facts.num_trained_tokens:,}"),
    ]
    lines = [
        "---",
        head.to_yaml(),
        "---",
        "",
        f"# {facts.name}",
        "",
        "A student distilled with Generalized Knowledge Distillation "
        "([arXiv 2306.13649](https://arxiv.org/abs/2306.13649))."
        if facts.teacher
        else "A model fine-tuned on fixed completions by maximum likelihood, without a teacher.",
        "",
        *(_adapter_note(facts.adapter_of) if facts.adapter_of is not None else []),
        *_table("training", "value", rows),
    ]
    if facts.metrics:
        numbers = [(name, "n/a" if math.isnan(value) else f"{value:.4g}") for name, value in facts.metrics.items()]
        lines += ["", *_table("metric", "value", numbers)]
    return "\n".join(lines) + "\n"


def _adapter_note(base: str) -> list[str]:
    return [
        f"This folder holds a low-rank adapter, not a whole model. Its base model is `{base}`. With peft installed, "
        "`AutoModelForCausalLM.from_pretrained` of this folder loads both where that base is found; elsewhere use "
        "`PeftModel.from_pretrained(base_model, folder)`.",
        "",
    ]


def _table(left: str, right: str, rows: list[tuple[str, str]]) -> list[str]:
    cells = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return [f"| {left} | {right} |", "| --- | --- |", *cells]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
