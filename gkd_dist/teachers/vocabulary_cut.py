"""Runs inside vLLM's workers: leaves the padded rows of a head out of every softmax."""

from typing import Any

from gkd_dist.errors import ModelError

EXTENSION = "gkd_dist.teachers.vocabulary_cut.VocabularyCut"
METHOD = "gkd_cut_vocabulary"


class VocabularyCut:
    """A worker extension of vLLM: its method is called by `collective_rpc`."""

    model_runner: Any

    def gkd_cut_vocabulary(self, num_ids: int) -> None:
        """Make `num_ids` the width of all logits; vLLM cuts them to `org_vocab_size` before anything else.

        Raises:
            ModelError: the model computes its logits in some other way.
        """
        model = self.model_runner.get_model()
        processors = [module for module in model.modules() if hasattr(module, "org_vocab_size") and _projects(module)]
        if not processors:
            raise ModelError(f"{type(model).__name__} does not let its vocabulary be cut; use teacher.transport=hidden")
        for processor in processors:
            processor.org_vocab_size = num_ids


def _projects(module: Any) -> bool:
    """Embeddings and heads know their original size too; only the processor has a scale."""
    return hasattr(module, "logits_as_input")
