"""The losses that `loss.py` compares: ours, liger-kernel's, TRL's, and the matrix products alone.

Each is a function of a `Case` and runs forward and backward: it returns the loss and leaves the gradients of the
student's hidden states and head on the tensors.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gkd_dist.divergences import Readout, chunked_divergence, hidden_teacher, make_divergence
from gkd_dist.divergences.product import accumulate_, multiply

KINDS = ("forward_kl", "reverse_kl", "jsd", "tvd")
BETAS = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}
"""How liger-kernel and TRL name the three they know."""


@dataclass
class Case:
    """T tokens, V ids, widths of student and teacher."""

    kind: str
    chunk_tokens: int
    hidden: Tensor
    """[T, H_student], with gradient."""
    head: Tensor
    """[V, H_student], with gradient."""
    teacher_hidden: Tensor
    """[T, H_teacher]"""
    teacher_head: Tensor
    """[V, H_teacher]"""

    @classmethod
    def make(cls, kind: str, shape: tuple[int, int, int, int], chunk_tokens: int, device: str) -> "Case":
        """Logits of size 2, float32 on a CPU and bfloat16 on a GPU."""
        tokens, ids, width, teacher_width = shape
        generator = torch.Generator().manual_seed(0)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32

        def normal(rows: int, columns: int, size: float) -> Tensor:
            return (size * torch.randn(rows, columns, generator=generator)).to(device, dtype)

        return cls(
            kind,
            chunk_tokens,
            normal(tokens, width, 1.0).requires_grad_(),
            normal(ids, width, 2.0 / math.sqrt(width)).requires_grad_(),
            normal(tokens, teacher_width, 1.0),
            normal(ids, teacher_width, 2.0 / math.sqrt(teacher_width)),
        )

    @property
    def num_tokens(self) -> int:
        return self.hidden.shape[0]

    @property
    def compute_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.hidden.is_cuda else torch.float32

    @property
    def flops(self) -> int:
        """Of the products that no exact loss with a trained head can do without."""
        return 2 * self.num_tokens * self.head.shape[0] * (3 * self.head.shape[1] + self.teacher_head.shape[1])

    def clear(self) -> None:
        self.hidden.grad = self.head.grad = None


Provider = Callable[[Case], Tensor]


def ours(case: Case) -> Tensor:
    teacher = hidden_teacher(case.teacher_hidden, Readout(case.teacher_head), compute_dtype=case.compute_dtype)
    loss = chunked_divergence(
        case.hidden,
        Readout(case.head),
        teacher,
        torch.full((case.num_tokens,), 1.0 / case.num_tokens, device=case.hidden.device),
        make_divergence(case.kind),  # type: ignore[arg-type]
        chunk_tokens=case.chunk_tokens,
        compute_dtype=case.compute_dtype,
    ).loss
    loss.backward()
    return loss.detach()


@torch.no_grad()
def floor(case: Case) -> Tensor:
    """The four products alone, at the same chunk, with the same accumulation; no result means anything."""
    head_gradient = torch.zeros(case.head.shape, device=case.head.device)
    hidden_gradient = torch.empty(case.hidden.shape, device=case.head.device)
    dtype = case.compute_dtype
    for start in range(0, case.num_tokens, case.chunk_tokens):
        span = slice(start, start + case.chunk_tokens)
        multiply(case.teacher_hidden[span], case.teacher_head.T, dtype)
        tile = multiply(case.hidden[span], case.head.T, dtype).to(case.head.dtype)
        hidden_gradient[span] = multiply(tile, case.head, dtype)
        accumulate_(head_gradient, tile.T, case.hidden[span], dtype)
    return head_gradient.new_zeros(())


def liger(*, compiled: bool, chunk_tokens: int | None = None) -> Provider:
    """liger-kernel's chunked loss; the same chunk as ours unless another is given."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    def run(case: Case) -> Tensor:
        loss = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0,
            weight_soft_loss=1.0,
            beta=BETAS[case.kind],
            compiled=compiled,
            chunk_size=chunk_tokens or case.chunk_tokens,
        )(
            case.hidden,
            case.head,
            case.teacher_hidden,
            case.teacher_head,
            torch.zeros(case.num_tokens, dtype=torch.int64, device=case.hidden.device),
        )
        loss.backward()
        return loss.detach()

    return run


def liger_triton(case: Case) -> Tensor:
    """liger-kernel's Triton loss (GPU)."""
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    loss = LigerFusedLinearJSD(jsd_beta=BETAS[case.kind])(
        case.hidden, case.head, case.teacher_hidden, case.teacher_head
    )
    loss.backward()
    return loss.detach()


def trl_chunked(case: Case) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    per_token, _ = ChunkedDivergenceFunction.apply(
        case.hidden, case.head, None, case.teacher_hidden, case.teacher_head, None, BETAS[case.kind]
    )
    loss = per_token.mean()
    loss.backward()
    return loss.detach()


def materialised(case: Case) -> Tensor:
    """TRL's GKD loss on whole [T, V] logits; for the total variation, which it lacks, plain torch in the same way."""
    logits = case.hidden @ case.head.T
    teacher_logits = case.teacher_hidden @ case.teacher_head.T
    if case.kind == "tvd":
        p, q = functional.softmax(teacher_logits, -1), functional.softmax(logits, -1)
        loss = 0.5 * (p - q).abs().sum() / case.num_tokens
    else:
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        from trl.experimental.gkd.gkd_trainer import GKDTrainer

        loss = GKDTrainer.generalized_jsd_loss(logits, teacher_logits, beta=BETAS[case.kind], reduction="sum")
        loss = loss / case.num_tokens
    loss.backward()
    return loss.detach()


def reference(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, d hidden and d head in float64 by autograd, 64 tokens at a time; shares no code with any provider."""
    hidden, head = (tensor.detach().double().requires_grad_() for tensor in (case.hidden, case.head))
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    for rows, teacher_rows in zip(hidden.split(64), case.teacher_hidden.double().split(64), strict=True):
        log_q = torch.log_softmax(rows @ head.T, -1)
        log_p = torch.log_softmax(teacher_rows @ case.teacher_head.double().T, -1)
        p, q = log_p.exp(), log_q.exp()
        if case.kind == "forward_kl":
            nats = p * (log_p - log_q)
        elif case.kind == "reverse_kl":
            nats = q * (log_q - log_p)
        elif case.kind == "jsd":
            log_m = torch.log((p + q) / 2)
            nats = (p * (log_p - log_m) + q * (log_q - log_m)) / 2
        else:
            nats = (p - q).abs() / 2
        part = nats.sum() / case.num_tokens
        part.backward()
        total += part.detach()
    return total, hidden.grad, head.grad


def providers(kind: str, device: str) -> dict[str, Provider]:
    """By name, those that know the divergence; the floor first."""
    found: dict[str, Provider] = {"floor": floor, "ours": ours}
    if kind in BETAS:
        found["liger compiled"] = liger(compiled=True)
        found["liger compiled 1024"] = liger(compiled=True, chunk_tokens=1024)
        found["liger eager"] = liger(compiled=False)
        if device == "cuda":
            found["liger triton"] = liger_triton
        found["trl chunked"] = trl_chunked
    return found | {"materialised": materialised}
