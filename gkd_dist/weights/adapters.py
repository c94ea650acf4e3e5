"""Low-rank adapters inside a model, under the names that a peft folder has for them.

peft puts a layer around each adapted one: `q_proj.weight` becomes `q_proj.base_layer.weight`, beside
`q_proj.lora_A.default.weight` [r, in] and `q_proj.lora_B.default.weight` [out, r].
"""

from pathlib import Path

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from gkd_dist.config.lora import LoraConfig
from gkd_dist.engines.families import family_at
from gkd_dist.errors import ModelError

ADAPTER = "default"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."


def attach(model: PreTrainedModel, config: LoraConfig, *, seed: int = 0) -> PeftLoraConfig:
    """Put adapters into `model` and freeze everything else. B is 0: the model computes what it did before.

    Args:
        seed: decides the initial A.

    Returns:
        peft's configuration, with the modules that were found.

    Raises:
        ModelError: no such module, or one that cannot have an adapter here.
    """
    targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    peft_config = PeftLoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        use_rslora=config.use_rslora,
        target_modules=targets,
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
        inference_mode=True,  # of the file it is saved to; training starts from `requires_grad` below
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            inject_adapter_in_model(peft_config, model)
    except ValueError as error:
        raise ModelError(f"student.lora.target_modules: {_first_line(error)}") from error
    for name, layer in lora_layers(model).items():
        if layer.get_base_layer() in _vocabulary_layers(model):
            raise ModelError(
                f"student.lora.target_modules: {name} reads or writes the vocabulary, where the loss needs plain "
                "weights; name layers between them, or use all-linear"
            )
        if ADAPTER not in layer.lora_A:
            raise ModelError(f"student.lora.target_modules: {name} is no linear layer; name linear layers")
    for tensor in adapter_tensors(model).values():
        tensor.requires_grad_(True)
    peft_config.target_modules = _targets(model)
    return peft_config


def check_targets(folder: Path, config: LoraConfig) -> None:
    """Raise ModelError unless the model in `folder` can have these adapters; reads its config.json alone."""
    with torch.device("meta"):
        attach(family_at(folder).skeleton(AutoConfig.from_pretrained(folder)), config)


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Adapted layers by the name that the layer had before."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def adapter_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """The live A and B by the names they have in a peft folder."""
    return {
        _PREFIX + name.replace(f".{ADAPTER}.", "."): tensor
        for name, tensor in model.named_parameters()
        if _is_adapter(name)
    }


def plain_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All other parameters by their checkpoint names, tied ones once."""
    return {plain_name(name): tensor for name, tensor in model.named_parameters() if not _is_adapter(name)}


def plain_name(name: str) -> str:
    """The checkpoint name of a parameter that may have moved into an adapted layer."""
    return name.replace(".base_layer.", ".")


def write_adapter(folder: Path, config: PeftLoraConfig, tensors: dict[str, Tensor]) -> None:
    """adapter_config.json and adapter_model.safetensors, as peft and vLLM read them."""
    config.save_pretrained(folder)
    detached = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(detached, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def _is_adapter(name: str) -> bool:
    return f".lora_A.{ADAPTER}." in name or f".lora_B.{ADAPTER}." in name


def _vocabulary_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Compared by identity: modules have no other equality."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    return [layer.get_base_layer() if isinstance(layer, LoraLayer) else layer for layer in layers]


def _targets(model: nn.Module) -> list[str]:
    """The adapted modules, by the last part of their names where no other module has it."""
    adapted = lora_layers(model)
    ends = {name.rpartition(".")[2] for name in adapted}
    found = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in ends]
    return sorted(ends if len(found) == len(adapted) else adapted)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
