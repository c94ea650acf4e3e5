"""Weights straight into layers of vLLM, without an engine."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.vllm


class Two(nn.Module):
    """A fused layer of two parts, a norm that is a plain parameter, and a layer of one part."""

    def __init__(self) -> None:
        from vllm.model_executor.layers.linear import MergedColumnParallelLinear, ReplicatedLinear

        super().__init__()
        self.first = MergedColumnParallelLinear(64, [64, 32], bias=False, disable_tp=True)
        self.scale = nn.Parameter(torch.ones(96), requires_grad=False)
        self.second = ReplicatedLinear(96, 64, bias=True, disable_tp=True)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        parameters = dict(self.named_parameters())
        for name, tensor in weights:
            if name.startswith("part."):
                parameters["first.weight"].weight_loader(parameters["first.weight"], tensor, int(name[-1]))
            elif name == "scale":
                self.scale.copy_(tensor)
            else:
                parameters[name].weight_loader(parameters[name], tensor)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)[0] * self.scale)[0]


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What layers of vLLM ask for: a configuration, and a group of this process alone."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import parallel_state

    store = tmp_path_factory.mktemp("store") / "store"
    with set_current_vllm_config(VllmConfig()):
        parallel_state.init_distributed_environment(1, 0, f"file://{store}", 0, "gloo")
        parallel_state.initialize_model_parallel()
        yield
        parallel_state.destroy_model_parallel()
        parallel_state.destroy_distributed_environment()


@pytest.fixture
def model(surroundings: None) -> Iterator[Two]:
    """As an engine holds it: loaded with weights of seed 0, and packed."""
    from vllm.model_executor.model_loader.reload import record_metadata_for_reloading

    with torch.no_grad():
        made = Two()
        record_metadata_for_reloading(made)
        made.load_weights(weights(0).items())
        for layer in (made.first, made.second):
            layer.quant_method.process_weights_after_loading(layer)
        yield made


def weights(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"part.0": (64, 64), "part.1": (32, 64), "scale": (96,), "second.weight": (64, 96), "second.bias": (64,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def expected(of: dict[str, Tensor], x: Tensor) -> Tensor:
    first = torch.cat([of["part.0"], of["part.1"]])
    return nn.functional.linear(nn.functional.linear(x, first) * of["scale"], of["second.weight"], of["second.bias"])


def gap(model: Two, of: dict[str, Tensor]) -> float:
    x = torch.randn((5, 64), generator=torch.Generator().manual_seed(9))
    wanted = expected(of, x)
    return float((model(x) - wanted).abs().max() / wanted.abs().max())


def test_what_is_loaded_is_what_the_layers_multiply_with(model: Two) -> None:
    from gkd_dist.weights.vllm_direct_reload import DirectReload, is_plain

    assert is_plain(model)
    assert gap(model, weights(0)) < 1e-5
    reload = DirectReload(model)
    for seed in (1, 2):
        sizes = {name: tensor.numel() for name, tensor in model.named_parameters()}
        published = weights(seed)
        reload.begin()
        reload.load(reversed(published.items()))
        reload.end()
        for tensor in published.values():  # its memory is the object store's, which has it back
            tensor.fill_(torch.nan)
        assert gap(model, weights(seed)) < 1e-5
        assert gap(model, weights(seed - 1)) > 0.1
        assert {name: tensor.numel() for name, tensor in model.named_parameters()} == sizes  # nothing is held twice


def test_what_comes_in_one_piece_is_packed_where_it_lies_unless_it_has_to_be_changed(
    model: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.platforms import current_platform

    from gkd_dist.weights import vllm_direct_reload

    if not current_platform.is_cpu():
        pytest.skip("on a GPU no layer is packed")
    copied: list[tuple[int, ...]] = []
    materialise = vllm_direct_reload.materialize_meta_tensor

    def counted(shape: Tensor) -> Tensor:
        copied.append(tuple(shape.shape))
        return materialise(shape)

    monkeypatch.setattr(vllm_direct_reload, "materialize_meta_tensor", counted)
    reload = vllm_direct_reload.DirectReload(model)
    rounded = {name: tensor.bfloat16() for name, tensor in weights(2).items()}
    for published, layers in ((weights(1), [(96, 64)]), (rounded, [(96, 64), (64, 96)])):
        copied.clear()
        reload.begin()
        reload.load(published.items())
        reload.end()
        assert copied == layers
        assert gap(model, {name: tensor.float() for name, tensor in published.items()}) < 1e-5


def test_a_layer_with_a_loader_of_its_own_gets_what_that_makes(surroundings: None) -> None:
    from vllm.model_executor.model_loader.reload import record_metadata_for_reloading

    from gkd_dist.weights.vllm_direct_reload import DirectReload

    def negated(parameter: nn.Parameter, loaded: Tensor) -> None:
        parameter.data.copy_(-loaded)

    with torch.no_grad():
        model = Two()
        model.second.weight.weight_loader = negated
        record_metadata_for_reloading(model)
        model.load_weights(weights(0).items())
        for layer in (model.first, model.second):
            layer.quant_method.process_weights_after_loading(layer)
        reload = DirectReload(model)
        reload.begin()
        reload.load(weights(1).items())
        reload.end()
        assert gap(model, weights(1) | {"second.weight": -weights(1)["second.weight"]}) < 1e-5


def test_an_update_that_was_broken_off_is_begun_anew(model: Two) -> None:
    from vllm.platforms import current_platform

    from gkd_dist.weights.vllm_direct_reload import DirectReload

    if not current_platform.is_cpu():
        pytest.skip("on a GPU no layer is packed")
    reload = DirectReload(model)
    reload.begin()
    reload.load([("part.1", weights(1)["part.1"])])
    with pytest.raises(ValueError, match="2 layers did not get all of their weights"):
        reload.end()
    reload.begin()
    reload.load(weights(2).items())
    reload.end()
    assert gap(model, weights(2)) < 1e-5


def test_what_is_quantised_or_no_matrix_is_left_to_vllm(model: Two) -> None:
    from gkd_dist.weights.vllm_direct_reload import is_plain

    class Quantised(type(model.second.quant_method)):  # type: ignore[misc]
        pass

    own: Any = model.second.quant_method
    model.second.quant_method = Quantised()
    assert not is_plain(model)
    model.second.quant_method = own
    model.register_module("attention", nn.Module())
    model.attention.kv_b_proj = nn.Identity()
    assert not is_plain(model)
