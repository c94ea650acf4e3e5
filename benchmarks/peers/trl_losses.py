"""TRL's losses on a batch that is given, in TRL's own environment: `python trl_losses.py ASKED.json ANSWER.json`."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from trl.experimental.gkd import GKDTrainer
from trl.trainer.distillation_trainer import _chunked_divergence_loss


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(asked[name], dtype=torch.float32).eval() for name in ("student", "teacher")
    )
    inputs = padded(asked["sequences"])
    given = sum(each["reference_tokens"] for each in asked["sequences"])
    answer = {}
    for name, beta in asked["betas"].items():
        answer[name] = {
            "gkd": backward(student, gkd(student, teacher, inputs, beta, None)),
            "gkd_in_training": backward(student, gkd(student, teacher, inputs, beta, given)),
            "distillation": backward(student, distillation(student, teacher, inputs, beta)),
        }
    Path(sys.argv[2]).write_text(json.dumps(answer))


def padded(sequences: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """As GKDTrainer lays out what was generated: prompts padded on the left, completions on the right."""
    prompt = max(len(each["prompt_ids"]) for each in sequences)
    completion = max(len(each["completion_ids"]) for each in sequences)
    ids = torch.zeros(len(sequences), prompt + completion, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, each in enumerate(sequences):
        own = each["prompt_ids"] + each["completion_ids"]
        span = slice(prompt - len(each["prompt_ids"]), prompt + len(each["completion_ids"]))
        ids[row, span], mask[row, span] = torch.tensor(own), 1
        labels[row, prompt : span.stop] = torch.tensor(each["completion_ids"])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gkd(student: Any, teacher: Any, inputs: dict[str, torch.Tensor], beta: float, items: int | None) -> torch.Tensor:
    """GKDTrainer.compute_loss.

    Args:
        items: what the sum is divided by; None: the tokens of the loss.
    """
    trainer = SimpleNamespace(
        teacher_model=teacher, beta=beta, generalized_jsd_loss=GKDTrainer.generalized_jsd_loss
    )  # what the method reads of a trainer
    return GKDTrainer.compute_loss(trainer, student, inputs, num_items_in_batch=items)


def distillation(student: Any, teacher: Any, inputs: dict[str, torch.Tensor], beta: float) -> torch.Tensor:
    """What DistillationTrainer does with the hidden states of both."""
    labels = inputs["labels"][:, 1:]
    first = int((labels != -100).any(0).nonzero()[0])
    states = [
        model.base_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        for model in (student, teacher)
    ]
    own, wanted = (each[:, :-1][:, first:] for each in states)
    loss, _, _ = _chunked_divergence_loss(
        own,
        wanted.detach(),
        student.get_output_embeddings().weight,
        teacher.get_output_embeddings().weight,
        (labels != -100)[:, first:].long(),
        beta,
    )
    return loss


def backward(student: Any, loss: torch.Tensor) -> dict[str, float]:
    student.zero_grad(set_to_none=True)
    loss.backward()
    gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    return {"loss": loss.item(), "gradient_norm": torch.nn.utils.get_total_norm(gradients).item()}


if __name__ == "__main__":
    main()
