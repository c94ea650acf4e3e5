"""Model card of a distilled student, as markdown (floor F3; writes nothing, asks no network)."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import ModelCardData
from huggingface_hub.repocard import metadata_load

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
    student_fraction: float | str
    """lambda of the paper; a text where it moves over the run."""
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
    before: Mapping[str, float] = field(default_factory=dict)
    """The same numbers of the student before training; empty where they are not known."""
    num_held_out: int = 0
    """Prompts that these are measured on."""
    data: str = ""
    """What it was trained on, for people."""
    dataset: str | None = None
    """Hub name of that; None for other data."""
    num_prompts: int = 0
    """To train on."""
    encoder_decoder: bool = False
    chat: bool = False
    """Whether prompts were written in the tokenizer's chat template."""
    base_model: str | None = None
    """The student's model where `student` says more than its name, such as what was pruned."""
    seed: int = 0
    version: str = ""
    """Of this package."""


def model_card(facts: DistillationFacts, *, license: str | None = None, tags: tuple[str, ...] = ()) -> str:
    """Markdown of README.md: a YAML head that the hub reads, then how the student was made.

    Args:
        facts: the run.
        license: SPDX name in lower case (`apache-2.0`); None: not known here, the card says so.
        tags: further tags.
    """
    base = facts.base_model or facts.student
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", base) is not None
    adapter = facts.adapter_of is not None
    head = ModelCardData(
        base_model=base if on_hub else None,  # the hub rejects folders and package names here
        base_model_relation=("adapter" if adapter else "finetune") if on_hub else None,
        datasets=[facts.dataset] if facts.dataset else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text2text-generation" if facts.encoder_decoder else "text-generation",
        license=license,
        tags=[*(BASE_TAGS if facts.teacher else ["sft"]), *(["lora"] if adapter else []), *tags],
    )
    rows = [
        ("student", facts.student),
        *([("teacher", facts.teacher)] if facts.teacher else []),
        *([("teacher transport", facts.transport)] if facts.transport else []),
        ("divergence", facts.divergence),
        ("student fraction (lambda)", _fraction(facts.student_fraction)),
        *([("reward", facts.reward), ("share of the divergence (alpha)", f"{facts.alpha:g}")] if facts.reward else []),
        ("train steps", f"{facts.num_steps:,}"),
        ("trained tokens", f"{facts.num_trained_tokens:,}"),
        *([("data", facts.data)] if facts.data else []),
        *([("training prompts", f"{facts.num_prompts:,}")] if facts.num_prompts else []),
        ("seed", str(facts.seed)),
        *([("made with", f"gkd-dist {facts.version}")] if facts.version else []),
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
        *(_use(facts) if not adapter else []),
        "## How it was made",
        "",
        *_table(("training", "value"), rows),
        *_evaluation(facts),
        "",
        "## License",
        "",
        f"{license}"
        if license
        else "That of the base model and of the data; it was not known where this card was "
        "written. Add `license:` to the head of this file before you publish it.",
        *(["", "## Citation", "", *_CITATION] if facts.teacher else []),
    ]
    return "\n".join(lines) + "\n"


_CITATION = [
    "```bibtex",
    "@inproceedings{agarwal2024gkd,",
    "  title     = {On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes},",
    "  author    = {Rishabh Agarwal and Nino Vieillard and Yongchao Zhou and Piotr Stanczyk and Sabela Ramos and "
    "Matthieu Geist and Olivier Bachem},",
    "  booktitle = {International Conference on Learning Representations},",
    "  year      = {2024},",
    "  url       = {https://arxiv.org/abs/2306.13649},",
    "}",
    "```",
]


def _use(facts: DistillationFacts) -> list[str]:
    """How it is loaded, and served."""
    lines = ["## Use", ""]
    if facts.encoder_decoder:
        return [
            *lines,
            "```python",
            "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
            "",
            'folder = "."  # this one, or its name on the hub',
            "tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)",
            'tokens = model.generate(**tokenizer("...", return_tensors="pt"), max_new_tokens=64)',
            "print(tokenizer.decode(tokens[0], skip_special_tokens=True))",
            "```",
            "",
        ]
    prompt = '[{"role": "user", "content": "..."}]' if facts.chat else '"..."'
    how = "in the tokenizer's chat template" if facts.chat else "as plain text, without a chat template"
    return [
        *lines,
        f"Prompts were written {how}.",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        'generate = pipeline("text-generation", model=".")  # this folder, or its name on the hub',
        f"print(generate({prompt}, max_new_tokens=64))",
        "```",
        "",
        "Behind an OpenAI-compatible server, from this folder: `vllm serve . --served-model-name student`.",
        "",
    ]


def _evaluation(facts: DistillationFacts) -> list[str]:
    if not facts.metrics:
        return []
    measured = f"Measured on {facts.num_held_out} held-out prompts." if facts.num_held_out else ""
    heading = ["", "## Evaluation", "", *([measured, ""] if measured else [])]
    if not facts.before:
        return [*heading, *_table(("metric", "value"), [(name, _number(each)) for name, each in facts.metrics.items()])]
    rows = [
        (name, _number(facts.before[name]) if name in facts.before else "n/a", _number(value))
        for name, value in facts.metrics.items()
    ]
    return [*heading, *_table(("metric", "before training", "after"), rows)]


def _fraction(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.4g}"


def license_of(folder: Path) -> str | None:
    """What the card of the model in `folder` says; None where there is no card, or it says nothing."""
    card = folder / "README.md"
    try:
        found = (metadata_load(card) or {}).get("license") if card.is_file() else None
    except ValueError:  # its head is no YAML mapping
        return None
    return found if isinstance(found, str) else None


def _adapter_note(base: str) -> list[str]:
    return [
        f"This folder holds a low-rank adapter, not a whole model. Its base model is `{base}`. With peft installed, "
        "`AutoModelForCausalLM.from_pretrained` of this folder loads both where that base is found; elsewhere use "
        "`PeftModel.from_pretrained(base_model, folder)`.",
        "",
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(map(_cell, cells))} |" for cells in (heads, *rows)]
    return [lines[0], f"|{' --- |' * len(heads)}", *lines[1:]]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
