"""A comparison of logits as one Triton kernel for NVIDIA GPUs (floor F0).

One program per row reads both tiles three times: for the two log-normalisers (running maximum and sum), for the value
and the sum of the slope, and for the derivative, which it writes over the student's logits. Nothing else of the
tile's size exists. Imported by `gkd_dist.divergences.fused` alone, on a machine with CUDA, which also checks it
against eager torch before use. Its arithmetic is tested in Triton's interpreter; it has not run on a GPU yet.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gkd_dist.divergences.fused import Backend, Comparison
from gkd_dist.divergences.kinds import ForwardKl, Jsd, ReverseKl, SkewedForwardKl, SkewedReverseKl, Tvd

BLOCK_IDS = 2048
"""Entries of a row at a time; larger blocks spill registers (ServiceNow/Fast-LLM issue 497)."""

FORWARD_KL = tl.constexpr(0)
REVERSE_KL = tl.constexpr(1)
JSD = tl.constexpr(2)
TVD = tl.constexpr(3)
SKEWED_FORWARD_KL = tl.constexpr(4)
SKEWED_REVERSE_KL = tl.constexpr(5)


def triton_backend(comparison: Comparison) -> Backend | None:
    """The kernel of `comparison`; None for a divergence that it does not know."""
    match comparison.divergence:
        case ForwardKl():
            kind, share, scale = FORWARD_KL, 0.0, 1.0
        case ReverseKl():
            kind, share, scale = REVERSE_KL, 0.0, 1.0
        case Jsd(beta=beta, normalized=normalized):
            kind, share, scale = JSD, beta, 1.0 / (beta * (1 - beta)) if normalized else 1.0
        case Tvd():
            kind, share, scale = TVD, 0.0, 1.0
        case SkewedForwardKl(skew=skew):
            kind, share, scale = SKEWED_FORWARD_KL, skew, 1.0
        case SkewedReverseKl(skew=skew):
            kind, share, scale = SKEWED_REVERSE_KL, 1.0 - skew, 1.0
        case _:
            return None

    def backend(teacher: Tensor, student: Tensor, weights: Tensor) -> Tensor:
        nats = torch.empty(student.shape[0], dtype=torch.float32, device=student.device)
        _compare_row[(student.shape[0],)](
            teacher,
            student,
            weights.contiguous(),
            nats,
            student.shape[1],
            teacher.stride(0),
            student.stride(0),
            1.0 / comparison.teacher_temperature,
            share,
            scale,
            KIND=kind,
            WANTS_SLOPE=comparison.wants_slope,
            BLOCK=BLOCK_IDS,
            num_warps=8,
        )
        return nats

    return backend


@triton.jit
def _compare_row(
    teacher,
    student,
    weights,
    nats,
    num_ids,
    teacher_stride,
    student_stride,
    inverse_temperature,
    share,
    scale,
    KIND: tl.constexpr,  # noqa: N803
    WANTS_SLOPE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """`Comparison.__call__` of row `program_id`; entries beyond the row are -inf, of probability 0."""
    row = tl.program_id(0).to(tl.int64)
    teacher += row * teacher_stride
    student += row * student_stride
    columns = tl.arange(0, BLOCK)

    teacher_max = tl.full([BLOCK], float("-inf"), tl.float32)
    student_max = tl.full([BLOCK], float("-inf"), tl.float32)
    teacher_sum = tl.zeros([BLOCK], tl.float32)
    student_sum = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_ids, BLOCK):
        inside = start + columns < num_ids
        z_p = tl.load(teacher + start + columns, mask=inside, other=float("-inf")) * inverse_temperature
        z_q = tl.load(student + start + columns, mask=inside, other=float("-inf"))
        teacher_max, teacher_sum = _running(teacher_max, teacher_sum, z_p)
        student_max, student_sum = _running(student_max, student_sum, z_q)
    log_z_p = _log_normaliser(teacher_max, teacher_sum)
    log_z_q = _log_normaliser(student_max, student_sum)

    value = tl.zeros([BLOCK], tl.float32)
    slope_sum = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_ids, BLOCK):
        inside = start + columns < num_ids
        z_p = tl.load(teacher + start + columns, mask=inside, other=float("-inf")) * inverse_temperature
        z_q = tl.load(student + start + columns, mask=inside, other=float("-inf"))
        entry, slope, _q = _entries(z_p - log_z_p, z_q - log_z_q, share, scale, KIND)
        value += entry
        slope_sum += slope
    tl.store(nats + row, tl.sum(value, 0))

    if WANTS_SLOPE:
        total = tl.sum(slope_sum, 0)
        weight = tl.load(weights + row)
        for start in range(0, num_ids, BLOCK):
            inside = start + columns < num_ids
            z_p = tl.load(teacher + start + columns, mask=inside, other=float("-inf")) * inverse_temperature
            z_q = tl.load(student + start + columns, mask=inside, other=float("-inf"))
            _entry, slope, q = _entries(z_p - log_z_p, z_q - log_z_q, share, scale, KIND)
            tl.store(student + start + columns, weight * (slope - q * total), mask=inside)


@triton.jit
def _running(largest, total, z):
    """Maximum and sum of exp(z - maximum) of each lane, one block further; a lane of -inf alone stays at 0."""
    higher = tl.maximum(largest, z)
    reference = tl.where(higher == float("-inf"), 0.0, higher)
    return higher, total * tl.exp(largest - reference) + tl.exp(z - reference)


@triton.jit
def _log_normaliser(largest, total):
    top = tl.max(largest, 0)
    return top + tl.log(tl.sum(total * tl.exp(largest - top), 0))


@triton.jit
def _entries(log_p, log_q, share, scale, KIND: tl.constexpr):  # noqa: N803
    """Entry and its derivative, as `Divergence.entries`, and q. `share` is the teacher's in the mixture."""
    p = tl.exp(log_p)
    q = tl.exp(log_q)
    if KIND == FORWARD_KL:
        entry = tl.where(p == 0, 0.0, p * (log_p - log_q))
        slope = -p
    elif KIND == REVERSE_KL:
        entry = tl.where(q == 0, 0.0, q * (log_q - log_p))
        slope = entry + q
    elif KIND == TVD:
        entry = 0.5 * tl.abs(q - p)
        slope = tl.where(q > p, 0.5 * q, tl.where(q < p, -0.5 * q, 0.0))
    else:
        m = share * p + (1.0 - share) * q
        log_m = tl.log(m)
        if KIND == JSD:
            slope = scale * (1.0 - share) * tl.where(q == 0, 0.0, q * (log_q - log_m))
            entry = scale * share * tl.where(p == 0, 0.0, p * (log_p - log_m)) + slope
        elif KIND == SKEWED_FORWARD_KL:
            entry = tl.where(p == 0, 0.0, p * (log_p - log_m))
            slope = -(1.0 - share) * tl.where(p == 0, 0.0, p * (q / m))
        else:
            entry = tl.where(q == 0, 0.0, q * (log_q - log_m))
            slope = entry + q - (1.0 - share) * tl.where(q == 0, 0.0, q * (q / m))
    return entry, slope, q
