"""Products with bfloat16 inputs and a float32 result."""

import sys
import threading
import time

import pytest
import torch

from gkd_dist.divergences.product import accumulate_, multiply, operand


def _matrices(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(48, 64, generator=generator), torch.randn(64, 80, generator=generator)


def test_bfloat16_rounds_the_inputs_and_not_the_result():
    left, right = _matrices()
    product = multiply(left, right, torch.bfloat16)
    rounded = left.bfloat16().double() @ right.bfloat16().double()
    unrounded = left.double() @ right.double()
    assert product.dtype == torch.float32
    # Hardware without bfloat16 units leaves the inputs as they are.
    exact = rounded if torch.cpu._is_avx512_bf16_supported() else unrounded
    # Sums of 64 terms of size 1 in float32 are good to 1e-5; rounding the result or other inputs costs 1e-2.
    assert (product - exact).abs().max() < 1e-4
    assert (rounded - unrounded).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accumulation_adds_in_place(dtype):
    left, right = _matrices(1)
    total = torch.full((48, 80), 3.0)
    address = total.data_ptr()
    accumulate_(total, left, right, dtype)
    accumulate_(total, left, right, dtype)
    assert total.data_ptr() == address
    torch.testing.assert_close(total, 3.0 + 2 * multiply(left, right, dtype), rtol=1e-5, atol=1e-4)


@pytest.fixture
def process_precision():
    """Sets the process's own choice, and takes it back at the end."""
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    yield lambda precision: setattr(switch, "fp32_precision", precision)
    switch.fp32_precision = before


def test_float32_products_are_exact_whatever_the_process_has_chosen(process_precision):
    left, right = _matrices(2)
    expected = left @ right
    process_precision("bf16")
    assert torch.equal(multiply(left, right, torch.float32), expected)
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"


@pytest.mark.parametrize("chosen", ["none", "ieee"])
def test_the_switch_is_put_back_even_after_an_error(chosen, process_precision):
    process_precision(chosen)
    multiply(*_matrices(), torch.bfloat16)
    assert torch.backends.mkldnn.matmul.fp32_precision == chosen
    with pytest.raises(RuntimeError):
        multiply(torch.ones(2, 3), torch.ones(4, 5), torch.bfloat16)
    assert torch.backends.mkldnn.matmul.fp32_precision == chosen


@pytest.fixture
def eager_threads():
    """Threads take turns every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_two_threads_each_get_their_precision_and_leave_the_process_its_own(
    process_precision, eager_threads, monkeypatch
):
    process_precision("none")
    seen, product = {"bf16": set(), "ieee": set()}, torch.mm

    def watched(left, right):
        names = seen[threading.current_thread().name]
        names.add(torch.backends.mkldnn.matmul.fp32_precision)
        result = product(left, right)
        time.sleep(1e-5)  # the other thread's turn
        names.add(torch.backends.mkldnn.matmul.fp32_precision)
        return result

    def work(dtype):
        for _ in range(300):
            multiply(*matrices, dtype)

    monkeypatch.setattr(torch, "mm", watched)
    matrices = _matrices()
    choices = {"bf16": torch.bfloat16, "ieee": torch.float32}
    threads = [threading.Thread(target=work, args=(dtype,), name=name) for name, dtype in choices.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"bf16": {"bf16"}, "ieee": {"ieee"}}
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"


def test_operands_on_cpu_are_float32_or_float64():
    assert operand(torch.ones(1, dtype=torch.bfloat16), torch.bfloat16).dtype == torch.float32
    assert operand(torch.ones(1, dtype=torch.float64), torch.bfloat16).dtype == torch.float64
    same = torch.ones(1)
    assert operand(same, torch.bfloat16) is same
