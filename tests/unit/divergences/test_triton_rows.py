"""The Triton kernel's arithmetic, in Triton's interpreter on the CPU: a process of its own, because the interpreter
is chosen when Triton is imported. What only a GPU shows (speed, its compiler) is not tested here."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

CHECK = """
import sys
import traceback

import torch
from gkd_dist.divergences import make_divergence
from gkd_dist.divergences.fused import Comparison, RELATIVE_TOLERANCE, disagreement
from gkd_dist.divergences import triton_rows

torch.set_num_threads(1)
triton_rows.BLOCK_IDS = 64


def check(kind):
    divergence = make_divergence(kind, beta=0.3, normalize_jsd=True, skew=0.2)
    for num_ids in (37, 64, 200):
        for wants_slope in (True, False):
            comparison = Comparison(divergence, 0.7, wants_slope)
            backend = triton_rows.triton_backend(comparison)
            difference = disagreement(backend, comparison, num_ids, torch.device("cpu"))
            assert difference < RELATIVE_TOLERANCE / 2, (num_ids, wants_slope, difference)

    comparison = Comparison(divergence, 1.0, True)
    backend = triton_rows.triton_backend(comparison)
    # Ids that neither may write; a whole block of them too.
    teacher, student = torch.randn(2, 3, 200)
    for logits in (teacher, student):
        logits[:, 5] = logits[:, 64:128] = -float("inf")
    weights = torch.rand(3)
    exact = student.double()
    expected = comparison(teacher.double(), exact, weights.double())
    nats = backend(teacher, student, weights)
    torch.testing.assert_close(nats.double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(student.double(), exact, rtol=1e-3, atol=1e-6)

    # Probabilities of 1e-45, half of which would be 0.
    comparison = Comparison(divergence, 0.1, True)
    teacher, student = torch.zeros(2, 3, 200)
    teacher[:, 1:100], teacher[:, 100:], student[:, 1:100], student[:, 100:] = -12.0, -10.3, -103.0, -200.0
    nats = triton_rows.triton_backend(comparison)(teacher, student, weights)
    assert nats.isfinite().all() and student.isfinite().all(), (nats, student)


for kind in sys.argv[1:]:
    try:
        check(kind)
    except Exception:
        print(f"{kind} failed", traceback.format_exc(), sep="\\n")
print("checked")
"""
KINDS = ("forward_kl", "reverse_kl", "jsd", "tvd", "skewed_forward_kl", "skewed_reverse_kl")


@pytest.fixture(scope="module")
def said():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", CHECK, *KINDS]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert found.stdout.endswith("checked\n"), found.stderr[-2000:]
    return found.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_computes_what_eager_torch_computes(kind, said):
    assert f"{kind} failed\n" not in said, said[-4000:]
