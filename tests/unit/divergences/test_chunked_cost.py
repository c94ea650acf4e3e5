"""What the chunked loss promises to cost: work, and the size of what it holds."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gkd_dist.divergences import (
    Readout,
    TeacherLogits,
    chunked_divergence,
    full_teacher,
    hidden_teacher,
    make_divergence,
)

N, V, STUDENT_SIZE, TEACHER_SIZE, CHUNK = 60, 512, 8, 24, 7


class Cost(TorchDispatchMode):
    """Records the largest tensor that appears and the FLOPs of the products."""

    def __init__(self):
        super().__init__()
        self.largest = 0
        self.flops = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.largest = max([self.largest, *(tensor.numel() for tensor in tensors)])
        name = function.overloadpacket.__name__
        assert name not in ("bmm", "baddbmm", "matmul", "linear", "mv"), "count this product too"
        if name in ("mm", "addmm", "addmm_"):
            left, right = args[-2:]
            self.flops += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        return result


def _parts(requires_grad=True):
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias, teacher_hidden, teacher_weight = (
        torch.randn(shape, generator=generator)
        for shape in [(N, STUDENT_SIZE), (V, STUDENT_SIZE), (V,), (N, TEACHER_SIZE), (V, TEACHER_SIZE)]
    )
    student = [tensor.requires_grad_(requires_grad) for tensor in (hidden, weight, bias)]
    return student, teacher_hidden, teacher_weight


def _loss(student, teacher, kind="jsd"):
    readout = Readout(student[1], student[2], soft_cap=3.0)
    weights = torch.full((N,), 1 / N)
    return chunked_divergence(student[0], readout, teacher, weights, make_divergence(kind), chunk_tokens=CHUNK).loss


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd", "tvd"])
def test_no_tensor_is_larger_than_one_tile_or_the_head(kind):
    student, teacher_hidden, teacher_weight = _parts()
    with Cost() as cost:
        _loss(student, hidden_teacher(teacher_hidden, Readout(teacher_weight)), kind).backward()
    assert all(tensor.grad is not None for tensor in student)
    assert cost.largest == max(CHUNK * V, V * TEACHER_SIZE) < N * V


def test_nothing_is_projected_twice():
    student, teacher_hidden, teacher_weight = _parts()
    with Cost() as cost:
        _loss(student, hidden_teacher(teacher_hidden, Readout(teacher_weight))).backward()
    assert cost.flops == 2 * N * V * (3 * STUDENT_SIZE + TEACHER_SIZE)


def test_without_a_gradient_only_the_logits_are_computed():
    student, teacher_hidden, teacher_weight = _parts()
    teacher = hidden_teacher(teacher_hidden, Readout(teacher_weight))
    with torch.no_grad(), Cost() as in_no_grad:
        _loss(student, teacher)
    with Cost() as frozen:
        _loss(_parts(requires_grad=False)[0], teacher)
    assert in_no_grad.flops == frozen.flops == 2 * N * V * (STUDENT_SIZE + TEACHER_SIZE)


def test_a_frozen_head_costs_no_weight_gradient():
    student, teacher_hidden, teacher_weight = _parts()
    student[1].requires_grad_(False)
    with Cost() as cost:
        _loss(student, hidden_teacher(teacher_hidden, Readout(teacher_weight))).backward()
    assert cost.flops == 2 * N * V * (2 * STUDENT_SIZE + TEACHER_SIZE)


def test_backward_multiplies_no_matrices():
    student, _, _ = _parts()
    loss = _loss(student, full_teacher(torch.zeros(1, V).expand(N, V)))
    with Cost() as cost:
        loss.backward()
    assert cost.flops == 0


def test_the_teacher_is_asked_once_per_chunk_in_order_without_gradient_mode():
    student, _, _ = _parts()
    asked = []

    def teacher(span):
        asked.append((span.start, span.stop, torch.is_grad_enabled()))
        return torch.zeros(span.stop - span.start, V)

    _loss(student, TeacherLogits(N, teacher)).backward()
    assert asked == [(start, min(start + CHUNK, N), False) for start in range(0, N, CHUNK)]
