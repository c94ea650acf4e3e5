"""Our low-rank products against vLLM's own, without an engine."""

import pytest
import torch

pytestmark = pytest.mark.vllm

IN, OUT, RANK = 24, (16, 8), 4


def products(kind: type, tokens: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """What `kind` adds to a random output [N, 24] in two slices, with the adapter id of each token."""
    from vllm.lora.layers import LoRAMapping

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    wrapper = kind(64, 16, "cpu")
    mapping = LoRAMapping(tokens, tokens, is_prefill=True)
    wrapper.update_metadata(mapping, [7, 9], 2, 100)
    low = tuple(draw(2, 1, RANK, IN) for _ in OUT)
    high = tuple(draw(2, 1, size, RANK) for size in OUT)
    y = draw(len(tokens), sum(OUT))
    wrapper.add_lora_linear(y, draw(len(tokens), IN), low, high, 0.5, OUT)
    return y


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
@pytest.mark.parametrize("tokens", [(7,) * 5, (9,) * 6, (9,), (7, 7, 9, 9), (0, 0, 0)])
def test_products_are_those_of_vllm(tokens: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    """To the rounding of the output's dtype: sums in another order."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from gkd_dist.weights.vllm_lone_adapter import LoneAdapterWrapper

    expected = products(PunicaWrapperCPU, tokens, dtype).float()
    found = products(LoneAdapterWrapper, tokens, dtype).float()
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_an_engine_would_use_them() -> None:
    from vllm.platforms import current_platform
    from vllm.utils.import_utils import resolve_obj_by_qualname

    from gkd_dist.weights import vllm_receiver
    from gkd_dist.weights.vllm_lone_adapter import LoneAdapterWrapper

    if not current_platform.is_cpu():
        pytest.skip("on a GPU vLLM has kernels of its own")
    vllm_receiver.register()
    assert resolve_obj_by_qualname(current_platform.get_punica_wrapper()) is LoneAdapterWrapper
