"""A student from its folder, ready to train, with everything checked that would otherwise show after hours."""

from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel

from gkd_dist.config.lora import LoraConfig
from gkd_dist.engines.families import Family, family_at
from gkd_dist.engines.probes import probe_ids, readout_error
from gkd_dist.errors import ModelError
from gkd_dist.learners.adapters import Adapters
from gkd_dist.learners.attention import attend_by_sequence
from gkd_dist.learners.checkpoint import check_saves
from gkd_dist.learners.dropout import DropoutValues, dropout_values, even_dropout, set_dropout
from gkd_dist.learners.model import StudentModel
from gkd_dist.weights.adapters import attach

_PROBE_TOLERANCE = 1e-3
"""Largest logit difference allowed between our readout and the model's own head, float32."""


def load_student(
    path: Path,
    *,
    gradient_checkpointing: bool,
    device: str = "cpu",
    lora: LoraConfig | None = None,
    base_name: str | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> StudentModel:
    """Load a student for training: float32 parameters, readout checked against the model's own logits.

    Without `dropout` the model stays in evaluation mode, where nothing is dropped whatever the configuration says; only
    gradient checkpointing needs training mode then.

    Args:
        device: where it trains. CPU; CUDA untested.
        lora: train these adapters alone.
        base_name: what saved adapters call their base model; None means `path`.
        dropout: share dropped wherever its configuration knows of dropping, in training mode.
        seed: decides the adapters' initial values, and what is dropped.

    Raises:
        ModelError: not a language model, modules that cannot have adapters, a head that `Readout` does not
            reproduce, a forward that is random without dropout, no dropout to switch on, or a folder whose student
            could not be saved again.
    """
    family, model, own_dropout = _load(path, device, dropout)
    model.config.use_cache = False
    adapters = None
    if lora is not None:
        adapters = Adapters(lora, attach(model, lora, seed=seed))
        adapters.peft.base_model_name_or_path = base_name or str(Path(path).resolve())
    student = StudentModel(model, family, own_dropout, adapters)
    _check_readout(student, path)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.train()
    if not dropout:
        _check_repeats(student, path)
    check_saves(student, path)
    if dropout:
        torch.manual_seed(seed)
        model.train()
    return student


def _load(path: Path, device: str, dropout: float) -> tuple[Family, PreTrainedModel, DropoutValues]:
    try:
        family, config = family_at(path), AutoConfig.from_pretrained(path)
        shares = even_dropout(dropout_values(config), dropout)
        if dropout and not any(shares.values()):
            raise ModelError(f"learner.dropout is {dropout:g}, but no key of {path}/config.json drops; set it to 0")
        set_dropout(config, shares)
        model = family.load(path, config=config, dtype=torch.float32, attn_implementation=_attention(device))
        original = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"student {path} does not load as a language model: {error}") from error
    if type(original) is not type(model.config):  # a text model out of a larger one
        original = original.get_text_config()
    if device == "cpu" and family.in_one_row:
        attend_by_sequence(model)
    return family, model.to(device).eval(), dropout_values(original)


def _attention(device: str) -> str:
    """On CPU torch's fused attention is slow backwards (37 ms a layer against a few for plain products, 8 x 155)."""
    return "eager" if device == "cpu" else "sdpa"


def _check_readout(student: StudentModel, path: Path) -> None:
    difference = readout_error(student.model, student.readout(), student.family)
    if not difference <= _PROBE_TOLERANCE:
        raise ModelError(
            f"student {path} ({type(student.model).__name__}): its logits are not readout(hidden states), "
            f"largest difference {difference:.3g}; this head is not supported"
        )


@torch.no_grad()
def _check_repeats(student: StudentModel, path: Path) -> None:
    """In the mode in which it trains: a random forward would teach the student something else than the loss says."""
    inputs = student.family.reading(probe_ids(student.model))
    first, second = (student.states(**inputs) for _ in range(2))
    if not torch.equal(first, second):
        raise ModelError(
            f"student {path} ({type(student.model).__name__}): two forwards of one input differ, so something is "
            "still dropped at random that no key of its config.json names; this model is not supported"
        )
