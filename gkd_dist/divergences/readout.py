"""The last step of a language model: from hidden states to logits (floor F0)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gkd_dist.divergences import scaling
from gkd_dist.divergences.product import check_compute_dtype, multiply, operand


@dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """logits = soft_cap * tanh(logit_scale * (h W^T + b) / soft_cap), over the first `num_ids` ids.

    Rows of W beyond `num_ids` only pad the vocabulary; they are cut off before any softmax, so that two models
    with different padding are compared over the ids that exist.

    Raises:
        ValueError: shapes that do not fit, or a number out of range.
    """

    weight: Tensor
    """[V, H], any floating dtype."""
    bias: Tensor | None = None
    """[V]."""
    logit_scale: float = 1.0
    soft_cap: float | None = None
    """Bound of the absolute logit; None means none."""
    num_ids: int | None = None
    """How many ids are real; None means all V."""

    def __post_init__(self) -> None:
        if self.weight.ndim != 2:
            raise ValueError(f"weight must be [V, H], got shape {list(self.weight.shape)}")
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise ValueError(f"bias {list(self.bias.shape)} does not fit weight {list(self.weight.shape)} [V, H]")
        if self.soft_cap is not None and not self.soft_cap > 0:
            raise ValueError(f"soft_cap must be positive or None, got {self.soft_cap}")
        if self.num_ids is not None and not 1 <= self.num_ids <= self.weight.shape[0]:
            raise ValueError(f"num_ids must be 1 to {self.weight.shape[0]} (rows of weight), got {self.num_ids}")

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, config: object, *, num_ids: int | None = None) -> "Readout":
        """The readout of a model by its transformers configuration; what is read from it: `divergences/scaling.py`.

        Args:
            weight: [V, H] of the LM head.
            bias: [V] or None.
            num_ids: real ids; None means all V.
        """
        scale, cap = scaling.logit_scale(config), scaling.soft_cap(config)
        return cls(weight=weight, bias=bias, logit_scale=scale, soft_cap=cap, num_ids=num_ids)

    @property
    def hidden_size(self) -> int:
        return self.weight.shape[1]

    @property
    def vocabulary_size(self) -> int:
        """Number of ids that logits cover."""
        return self.weight.shape[0] if self.num_ids is None else self.num_ids

    def check(self, hidden: Tensor, name: str = "hidden") -> None:
        """Raises ValueError unless `hidden` [..., H] fits the weight in size and precision."""
        if hidden.ndim == 0 or hidden.shape[-1] != self.hidden_size:
            raise ValueError(f"{name} {list(hidden.shape)} does not fit weight {list(self.weight.shape)} [V, H]")
        if (hidden.dtype == torch.float64) != (self.weight.dtype == torch.float64):
            raise ValueError(f"{name} {hidden.dtype} and weight {self.weight.dtype}: float64 needs both in float64")

    def logits(self, hidden: Tensor, *, compute_dtype: torch.dtype = torch.float32) -> Tensor:
        """[..., vocabulary_size] float32 logits (float64 if the hidden states are).

        Args:
            hidden: [..., H] any floating dtype, after the final norm. With float32 products it, weight and bias get
                gradients.
            compute_dtype: float32, or bfloat16 to round the inputs (not the result) of the product.

        Raises:
            ValueError: hidden states that do not fit the weight, or another compute_dtype.
        """
        check_compute_dtype(compute_dtype)
        self.check(hidden)
        # Inside autocast the product would come back rounded to bfloat16.
        with torch.autocast(hidden.device.type, enabled=False):
            rows = operand(hidden, compute_dtype).reshape(-1, self.hidden_size)
            weight = operand(self.weight[: self.vocabulary_size], compute_dtype)
            logits = self.finish(multiply(rows, weight.T, compute_dtype))
        return logits.reshape(*hidden.shape[:-1], self.vocabulary_size)

    def finish(self, product: Tensor) -> Tensor:
        """[n, vocabulary_size] logits from `product` = h W^T of that shape: bias, scale and soft cap.

        Without gradient mode they are made in place of `product`.
        """
        logits, out = product, None if torch.is_grad_enabled() else product
        if self.bias is not None:
            logits = torch.add(logits, self.bias[: self.vocabulary_size], out=out)
        if self.logit_scale != 1.0:
            logits = torch.mul(logits, self.logit_scale, out=out)
        if self.soft_cap is not None:
            bent = torch.tanh(torch.div(logits, self.soft_cap, out=out), out=out)
            logits = torch.mul(bent, self.soft_cap, out=out)
        return logits

    def finish_backward(self, logits: Tensor | None, slope: Tensor) -> Tensor:
        """A derivative with respect to logits, taken back through `finish` in place of `slope`.

        Args:
            logits: [n, vocabulary_size] from `finish`; needed with a soft cap alone, and overwritten.
            slope: [n, vocabulary_size].
        """
        if self.soft_cap is not None:
            if logits is None:
                raise ValueError("a soft cap needs the logits that finish gave")
            slope = slope.mul_(logits.div_(self.soft_cap).square_().neg_().add_(1.0))
        return slope.mul_(self.logit_scale) if self.logit_scale != 1.0 else slope

    def frozen(self, compute_dtype: torch.dtype) -> "Readout":
        """The same readout without gradient, cut to its real ids, its weight converted for products once."""
        num_ids = self.vocabulary_size
        bias = None if self.bias is None else self.bias.detach()[:num_ids]
        weight = operand(self.weight.detach()[:num_ids], compute_dtype)
        return replace(self, weight=weight, bias=bias, num_ids=None)
