"""The student as the learner sees it: a body that gives hidden states, and a readout that gives logits."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from gkd_dist.divergences import Readout
from gkd_dist.errors import ModelError

_PROBE_TOLERANCE = 1e-3
"""Largest logit difference allowed between our readout and the model's own head, float32."""


@dataclass(frozen=True)
class StudentModel:
    """A causal language model, split where the vocabulary begins."""

    model: PreTrainedModel

    @property
    def body(self) -> nn.Module:
        """[B, T] token ids -> hidden states [B, T, H] after the final norm."""
        return self.model.base_model

    @property
    def device(self) -> torch.device:
        return self.model.device

    def readout(self, num_ids: int | None = None) -> Readout:
        """The live head, cut to `num_ids`: gradients flow to its weight (and to the embedding where they are tied)."""
        head = self.model.get_output_embeddings()
        return Readout.of(head.weight, getattr(head, "bias", None), self.model.config, num_ids=num_ids)

    def named_parameters(self) -> list[tuple[str, torch.Tensor]]:
        """Checkpoint names and tensors, tied ones once."""
        return list(self.model.named_parameters())


def load_student(path: Path, *, gradient_checkpointing: bool) -> StudentModel:
    """Load a student for training: float32 parameters, no dropout, readout checked against the model's own logits.

    Raises:
        ModelError: not a causal language model, or a head that `Readout` does not reproduce.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation=_attention())
    except (OSError, ValueError) as error:
        raise ModelError(f"student {path} does not load as a causal language model: {error}") from error
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.config.use_cache = False
    student = StudentModel(model)
    _check_readout(student, path)
    model.train()
    if gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return student


def _attention() -> str:
    """On CPU torch's fused attention is slow backwards (37 ms a layer against a few for plain products, 8 x 155)."""
    return "sdpa" if torch.cuda.is_available() else "eager"


@torch.no_grad()
def _check_readout(student: StudentModel, path: Path) -> None:
    model = student.model.eval()
    probe = torch.arange(1, 9, device=student.device).unsqueeze(0) % model.config.vocab_size
    own = model(input_ids=probe).logits.float()
    ours = student.readout().logits(student.body(input_ids=probe).last_hidden_state)
    difference = (own - ours).abs().max().item()
    if not difference <= _PROBE_TOLERANCE:
        raise ModelError(
            f"student {path} ({type(model).__name__}): its logits are not readout(hidden states), "
            f"largest difference {difference:.3g}; this head is not supported"
        )
