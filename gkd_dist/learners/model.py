"""The student as the learner sees it: a body that gives hidden states, and a readout that gives logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from gkd_dist.divergences import Readout
from gkd_dist.engines.families import Causal, Family
from gkd_dist.learners.adapters import Adapters, published
from gkd_dist.learners.dropout import DropoutValues
from gkd_dist.weights.publisher import Publishable


@dataclass(frozen=True)
class StudentModel:
    """A language model, split where the vocabulary begins."""

    model: PreTrainedModel
    family: Family = Causal()  # noqa: RUF009 - immutable
    dropout: DropoutValues = field(default_factory=dict)
    """What its source drops; the student saved gets these values back, whatever is dropped here."""
    adapters: Adapters | None = None
    """Where only low-rank adapters are trained."""

    def states(self, **inputs: Any) -> torch.Tensor:
        """[B, T, H] hidden states after the final norm; see `engines.families`."""
        return self.family.states(self.model, **inputs)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def readout(self, num_ids: int | None = None) -> Readout:
        """The live head, cut to `num_ids`: gradients flow to its weight (and to the embedding where they are tied)."""
        head = self.model.get_output_embeddings()
        return Readout.of(head.weight, getattr(head, "bias", None), self.model.config, num_ids=num_ids)

    def idle(self) -> torch.Tensor:
        """[1, 1, H] of one token: a forward like any other where one is needed and there is nothing to train on."""
        ids = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        return self.states(**self.family.reading(ids))

    def published(self) -> list[tuple[str, Publishable]]:
        """What samplers load, by name."""
        return list(published(self.model, self.adapters))

    def gathered(self) -> dict[str, torch.Tensor] | None:
        """The whole model where `model` itself is only a part of it."""
        return None

    def named_parameters(self) -> list[tuple[str, torch.Tensor]]:
        """Names inside the model and tensors, tied ones once."""
        return list(self.model.named_parameters())

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode inside, the mode of before outside."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)
