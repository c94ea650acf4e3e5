"""The backends of a comparison: they agree with float64 autograd, keep to blocks, and never replace what is right."""

import asyncio
import logging
import shutil

import pytest
import torch

from gkd_dist.divergences import DenseTerm, LikelihoodTerm, Readout, chunked_loss, full_teacher, fused, make_divergence
from gkd_dist.divergences.fused import Comparison, compare, disagreement, fused_backend
from gkd_dist.serial import SerialThread

KINDS = ["forward_kl", "reverse_kl", "jsd", "tvd", "skewed_forward_kl", "skewed_reverse_kl"]
CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile needs a C++ compiler"
)


def _divergence(kind):
    return make_divergence(kind, beta=0.25, normalize_jsd=True, skew=0.3)


def _naive(kind, teacher, student, temperature):
    """Nats [n] in float64 as the definition says, with gradient by autograd."""
    p, q = torch.softmax(teacher.double() / temperature, 1), torch.softmax(student.double(), 1)
    kl = lambda a, b: (a * (a / b).log()).sum(1)  # noqa: E731
    match kind:
        case "forward_kl":
            return kl(p, q)
        case "reverse_kl":
            return kl(q, p)
        case "jsd":
            m = 0.25 * p + 0.75 * q
            return (0.25 * kl(p, m) + 0.75 * kl(q, m)) / (0.25 * 0.75)
        case "tvd":
            return 0.5 * (p - q).abs().sum(1)
        case "skewed_forward_kl":
            return kl(p, 0.3 * p + 0.7 * q)
        case "skewed_reverse_kl":
            return kl(q, 0.7 * p + 0.3 * q)


def _tiles(rows=11, ids=37, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = (2 * torch.randn(rows, ids, generator=generator, dtype=dtype) for _ in range(2))
    return teacher, student, torch.rand(rows, generator=generator, dtype=dtype)


def _exact(kind, teacher, student, weights, temperature):
    leaf = student.double().clone().requires_grad_()
    nats = _naive(kind, teacher, leaf, temperature)
    (weights.double() * nats).sum().backward()
    return nats.detach(), leaf.grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eager_matches_autograd_of_the_definition(kind, temperature, dtype):
    teacher, student, weights = _tiles(dtype=dtype)
    nats, slope = _exact(kind, teacher, student, weights, temperature)
    found = compare(Comparison(_divergence(kind), temperature, wants_slope=True), teacher, student, weights)
    # Sums of 37 terms of size one at most, in float32; in float64 rounding alone.
    tight = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-13}
    torch.testing.assert_close(found.double(), nats, **tight)
    torch.testing.assert_close(student.double(), slope, **tight)


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 64])
def test_blocks_change_nothing(rows, monkeypatch):
    teacher, student, weights = _tiles(rows=rows, dtype=torch.float64)
    comparison = Comparison(_divergence("jsd"), 1.0, wants_slope=True)
    whole = student.clone()
    nats = comparison(teacher, whole, weights)
    monkeypatch.setattr(fused, "BLOCK_BYTES", 1)
    assert torch.equal(compare(comparison, teacher, student, weights), nats)
    assert torch.equal(student, whole)


def test_without_a_slope_the_logits_stay_as_they_are():
    teacher, student, weights = _tiles()
    before = student.clone()
    compare(Comparison(_divergence("jsd"), 1.0, wants_slope=False), teacher, student, weights)
    assert torch.equal(student, before)


@pytest.mark.parametrize("owns_logits", [True, False])
def test_only_owned_logits_are_overwritten(owns_logits):
    teacher, student, weights = _tiles()
    before, teacher_before = student.clone(), teacher.clone()
    term = DenseTerm(full_teacher(teacher), _divergence("reverse_kl"), weights)
    part = term.chunk(student, slice(0, 11), wants_slope=True, owns_logits=owns_logits)
    assert (part.slope.data_ptr() == student.data_ptr()) == owns_logits
    assert torch.equal(student, before) != owns_logits
    assert torch.equal(teacher, teacher_before)


@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_several_terms_add_up_whatever_their_order(soft_cap):
    teacher, student, weights = _tiles(dtype=torch.float64)
    hidden, head = student[:, :5].contiguous(), student.T[:, :5].contiguous()
    terms = [
        DenseTerm(full_teacher(teacher), _divergence("jsd"), weights),
        LikelihoodTerm(torch.arange(11), weights / 3),
        DenseTerm(full_teacher(teacher.flip(0)), _divergence("tvd"), weights / 2),
    ]

    def gradients(some):
        leaves = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = chunked_loss(leaves[0], Readout(leaves[1], soft_cap=soft_cap), some, chunk_tokens=4).loss
        loss.backward()
        return [loss.detach(), *(leaf.grad for leaf in leaves)]

    apart = [gradients([term]) for term in terms]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        together = gradients([terms[index] for index in order])
        for found, *parts in zip(together, *apart, strict=True):
            torch.testing.assert_close(found, sum(parts))


@needs_compiler
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "jsd" else [pytest.mark.slow]) for kind in KINDS]
)
def test_compiled_code_agrees_and_is_made_once_for_any_number_of_rows(kind, monkeypatch):
    monkeypatch.setattr(fused, "MIN_FUSED_ENTRIES", 1)
    fused_backend.cache_clear()
    comparison = Comparison(_divergence(kind), 2.0, wants_slope=True)
    backend = fused_backend(comparison, 640, CPU)
    assert backend is not comparison
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for rows in (50, 2, 3, 128, 1):
        teacher, student, weights = _tiles(rows=rows, ids=640)
        nats, slope = _exact(kind, teacher, student, weights, 2.0)
        # Sums of 640 terms in float32.
        torch.testing.assert_close(compare(comparison, teacher, student, weights).double(), nats, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(student.double(), slope, rtol=1e-3, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


@needs_compiler
def test_compiling_works_in_the_thread_of_an_engine():
    fused_backend.cache_clear()
    comparison = Comparison(_divergence("forward_kl"), 1.0, wants_slope=True)

    async def work():
        thread = SerialThread("learner")
        try:
            return await thread.run(lambda: fused_backend(comparison, 320, CPU))
        finally:
            thread.close()

    backend = asyncio.run(work())
    assert backend is not comparison and disagreement(backend, comparison, 320, CPU) < 1e-5


def _wrong(comparison):
    def backend(teacher, student, weights):
        return 1.01 * comparison(teacher, student, weights)

    return backend


def _broken(comparison):
    raise OSError("no C++ compiler\nsecond line")


def _silent_nan(comparison):
    def backend(teacher, student, weights):
        student.fill_(float("nan"))
        return student[:, 0]

    return backend


@pytest.mark.parametrize(
    ("maker", "message"),
    [(_wrong, "differs from eager torch by 1.0e-02"), (_broken, "no C++ compiler"), (_silent_nan, "by inf")],
)
def test_a_backend_that_is_wrong_or_missing_is_not_used(maker, message, monkeypatch, caplog):
    monkeypatch.setattr(fused, "_compiled", maker)
    monkeypatch.setattr(fused, "MIN_FUSED_ENTRIES", 1)
    fused_backend.cache_clear()
    comparison = Comparison(_divergence("tvd"), 1.0, wants_slope=True)
    teacher, student, weights = _tiles()
    nats, _ = _exact("tvd", teacher, student, weights, 1.0)
    with caplog.at_level(logging.WARNING):
        found = [compare(comparison, teacher, student.clone(), weights) for _ in range(3)]
    torch.testing.assert_close(found[0].double(), nats, rtol=1e-4, atol=1e-6)
    assert [message in record.getMessage() for record in caplog.records] == [True, False]
    assert "second line" not in caplog.text and "eager" in caplog.records[1].getMessage()
    fused_backend.cache_clear()


def test_small_problems_and_float64_never_reach_a_compiler(monkeypatch):
    def refuse(*_):
        raise AssertionError("asked for a backend")

    monkeypatch.setattr(fused, "fused_backend", refuse)
    comparison = Comparison(_divergence("jsd"), 1.0, wants_slope=True)
    compare(comparison, *_tiles())
    monkeypatch.setattr(fused, "MIN_FUSED_ENTRIES", 1)
    compare(comparison, *_tiles(dtype=torch.float64))
    compare(comparison, *_tiles(rows=1))
    with pytest.raises(AssertionError, match="asked for a backend"):
        compare(comparison, *_tiles())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maker", ["_triton", "_compiled"])
def test_backends_of_a_gpu_agree(kind, maker):
    device = torch.device("cuda")
    comparison = Comparison(_divergence(kind), 0.7, wants_slope=True)
    backend = getattr(fused, maker)(comparison)
    assert disagreement(backend, comparison, 32_003, device) < fused.RELATIVE_TOLERANCE
