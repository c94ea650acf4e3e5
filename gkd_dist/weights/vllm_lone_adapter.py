"""Low-rank products of vLLM's CPU engine where a batch carries one adapter, as every batch of a student does.

vLLM's own CPU operations gather a copy of A and B for every token of the batch. One adapter needs two products.
"""

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class LoneAdapterWrapper(PunicaWrapperCPU):
    """Computes what its base computes; batches with several adapters, or with some tokens without, go there."""

    def _shrink_prefill(self, y: Tensor, x: Tensor, w_t_all: Tensor, scale: float) -> None:
        """y [N, r] = scale * x A^T, of x [N, in] and w_t_all [adapters, 1, r, in]."""
        if self.no_lora or self.batch_size != 1:
            super()._shrink_prefill(y, x, w_t_all, scale)
            return
        product = x.to(y.dtype) @ self._lone(w_t_all, y.dtype).T
        y[:, : product.shape[1]] = scale * product

    def _expand_slice_prefill(
        self, y: Tensor, x: Tensor, w_t_all: Tensor, y_offset: int, y_slice_size: int, add_inputs: bool
    ) -> None:
        """A slice of y [N, out] (+)= x B^T, of x [N, r] and w_t_all [adapters, 1, slice, r]."""
        if self.no_lora or self.batch_size != 1:
            super()._expand_slice_prefill(y, x, w_t_all, y_offset, y_slice_size, add_inputs)
            return
        product = x.to(y.dtype) @ self._lone(w_t_all, y.dtype).T
        target = y[:, y_offset : y_offset + y_slice_size]
        if add_inputs:
            target += product
        else:
            target.copy_(product)

    def _lone(self, stacked: Tensor, dtype: torch.dtype) -> Tensor:
        """The adapter that all tokens have, out of [adapters, 1, rows, columns]."""
        return stacked[int(self._lora_indices_per_batch[0])].flatten(0, -2).to(dtype)
