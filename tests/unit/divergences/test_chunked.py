"""The chunked loss against the float64 reference: values and gradients."""

import divergence_reference as reference
import numpy as np
import pytest
import torch

from gkd_dist.divergences import (
    Readout,
    chunked_divergence,
    full_teacher,
    hidden_teacher,
    make_divergence,
    token_weights,
)

LENGTHS = [1, 4, 2, 2]  # with four sequences the weights 1 / (L * 4) are exact in float32
N, STUDENT_SIZE, TEACHER_SIZE, IDS = 9, 4, 6, 13
CASES = [("forward_kl", 0.5), ("reverse_kl", 0.5), ("tvd", 0.5), *(("jsd", beta) for beta in (0.1, 0.25, 0.5, 0.9))]
PLAIN = {"scale": 1.0, "soft_cap": None, "num_ids": None}
CAPPED = {"scale": 0.6, "soft_cap": 2.5, "num_ids": 10}


def _case(seed=0, dtype=torch.float64):
    """Student hidden, weight, bias; teacher hidden, weight (with other padding), bias."""
    rng = np.random.default_rng(seed)
    shapes = [(N, STUDENT_SIZE), (IDS, STUDENT_SIZE), (IDS,), (N, TEACHER_SIZE), (IDS + 2, TEACHER_SIZE), (IDS + 2,)]
    return [torch.tensor(rng.normal(size=shape), dtype=dtype) for shape in shapes]


def _weights():
    return token_weights(LENGTHS, "sequence_mean", num_sequences=4, num_tokens=9)


def _run(case, divergence, *, form=PLAIN, compute_dtype=torch.float32, upstream=1.0, **options):
    """Result and gradients of hidden, weight and bias."""
    hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias = case
    student = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    num_ids = form["num_ids"] or IDS
    teacher = Readout(teacher_weight, teacher_bias, form["scale"], form["soft_cap"], num_ids)
    result = chunked_divergence(
        student[0],
        Readout(student[1], student[2], form["scale"], form["soft_cap"], form["num_ids"]),
        hidden_teacher(teacher_hidden, teacher, compute_dtype=compute_dtype),
        _weights(),
        divergence,
        compute_dtype=compute_dtype,
        **options,
    )
    (result.loss * upstream).backward()
    return result, [tensor.grad for tensor in student]


def _expected(case, kind, beta, temperature, form):
    hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias = (tensor.double().numpy() for tensor in case)
    head = reference.Head(weight, bias, **form)
    teacher = reference.Head(teacher_weight, teacher_bias, form["scale"], form["soft_cap"], form["num_ids"] or IDS)
    logits = head.logits(hidden)
    p, q = reference.softmax(teacher.logits(teacher_hidden), temperature), reference.softmax(logits)
    per_token = np.array([reference.value(kind, a, b, beta) for a, b in zip(p, q, strict=True)])
    slopes = np.stack([reference.logit_gradient(kind, a, b, beta) for a, b in zip(p, q, strict=True)])
    slopes *= reference.weights_of_sequence_mean(LENGTHS)[:, None]
    return per_token, head.backward(hidden, logits, slopes)


@pytest.mark.parametrize(("kind", "beta"), CASES)
@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("form", [PLAIN, CAPPED], ids=["plain", "capped"])
@pytest.mark.parametrize("chunk_tokens", [1, 4, 256])
def test_values_and_gradients_match_the_reference(kind, beta, temperature, form, chunk_tokens):
    case = _case()
    divergence = make_divergence(kind, beta=beta)
    result, gradients = _run(
        case, divergence, form=form, teacher_temperature=temperature, chunk_tokens=chunk_tokens, upstream=-3.0
    )
    per_token, expected = _expected(case, kind, beta, temperature, form)
    # float64 throughout; the absolute part is for entries that are a difference of larger ones.
    tight = {"rtol": 1e-8, "atol": 1e-14}
    np.testing.assert_allclose(result.per_token.numpy(), per_token, **tight)
    np.testing.assert_allclose(result.loss.item(), reference.sequence_mean_loss(per_token, LENGTHS), **tight)
    for gradient, exact in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient.numpy(), -3.0 * exact, **tight)


@pytest.mark.parametrize("kind", ["forward_kl", "jsd"])
def test_float32_is_close_to_the_reference(kind):
    case = _case(1, torch.float32)
    result, gradients = _run(case, make_divergence(kind, beta=0.25), form=CAPPED, chunk_tokens=4)
    per_token, expected = _expected(case, kind, 0.25, 1.0, CAPPED)
    assert result.loss.dtype == result.per_token.dtype == torch.float32
    # Sums of about ten terms of size one in float32.
    np.testing.assert_allclose(result.per_token.numpy(), per_token, rtol=1e-5, atol=1e-6)
    for gradient, exact in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient.numpy(), exact, rtol=1e-4, atol=1e-6)


def test_bfloat16_tensors_lose_nothing_but_the_rounding_of_their_gradients():
    halves = _case(2, torch.bfloat16)
    result, gradients = _run(halves, make_divergence("forward_kl"), chunk_tokens=4)
    wide_result, wide_gradients = _run([t.float() for t in halves], make_divergence("forward_kl"), chunk_tokens=4)
    assert result.loss.dtype == torch.float32
    torch.testing.assert_close(result.loss, wide_result.loss)
    for gradient, wide in zip(gradients, wide_gradients, strict=True):
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient, wide.bfloat16())


def test_mixed_dtypes_each_get_their_own_gradient():
    case = _case(3, torch.float32)
    case[0] = case[0].bfloat16()
    _, gradients = _run(case, make_divergence("forward_kl"))
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32, torch.float32]


def test_bfloat16_products_stay_near_float32_ones():
    case = _case(4, torch.float32)
    result, gradients = _run(case, make_divergence("forward_kl"), compute_dtype=torch.bfloat16, chunk_tokens=4)
    exact, exact_gradients = _run(case, make_divergence("forward_kl"), chunk_tokens=4)
    assert result.loss.dtype == torch.float32
    # Inputs are rounded by at most 2^-9; logits of this case are sums of 4 to 6 products of size one.
    torch.testing.assert_close(result.loss, exact.loss, rtol=2e-2, atol=0)
    for gradient, wide in zip(gradients, exact_gradients, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - wide).norm() < 0.03 * wide.norm()


def test_autocast_around_the_loss_changes_nothing():
    case = _case(5, torch.float32)
    plain, gradients = _run(case, make_divergence("jsd"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result, cast_gradients = _run(case, make_divergence("jsd"))
    assert torch.equal(result.loss, plain.loss)
    assert all(torch.equal(a, b) for a, b in zip(gradients, cast_gradients, strict=True))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])
def test_log_probs_and_logits_of_the_teacher_give_what_its_hidden_states_give(temperature):
    case = _case(6)
    _, _, _, teacher_hidden, teacher_weight, teacher_bias = case
    divergence = make_divergence("jsd", beta=0.25)
    result, _ = _run(case, divergence, teacher_temperature=temperature, chunk_tokens=4)
    logits = Readout(teacher_weight, teacher_bias, num_ids=IDS).logits(teacher_hidden)
    student = Readout(case[1], case[2])
    for teacher in (full_teacher(logits), full_teacher(torch.log_softmax(logits, -1))):
        other = chunked_divergence(
            case[0], student, teacher, _weights(), divergence, teacher_temperature=temperature, chunk_tokens=4
        )
        torch.testing.assert_close(other.per_token, result.per_token)


def test_only_what_requires_a_gradient_gets_one():
    hidden, weight, bias, *_ = _case(7)
    teacher = full_teacher(torch.randn(N, IDS, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    exact = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
    divergence = make_divergence("forward_kl")
    chunked_divergence(exact[0], Readout(*exact[1:]), teacher, _weights(), divergence).loss.backward()
    for wanted in range(3):
        some = [tensor.clone().requires_grad_(index == wanted) for index, tensor in enumerate((hidden, weight, bias))]
        chunked_divergence(some[0], Readout(*some[1:]), teacher, _weights(), divergence).loss.backward()
        assert [tensor.grad is not None for tensor in some] == [index == wanted for index in range(3)]
        assert torch.equal(some[wanted].grad, exact[wanted].grad)


def test_teacher_and_token_weights_receive_no_gradient():
    case = [tensor.requires_grad_() for tensor in _case(8)]
    weights = _weights().requires_grad_()
    teacher = hidden_teacher(case[3], Readout(case[4], case[5], num_ids=IDS))
    result = chunked_divergence(case[0], Readout(case[1], case[2]), teacher, weights, make_divergence("jsd"))
    result.loss.backward()
    assert all(tensor.grad is not None for tensor in case[:3])
    assert all(tensor.grad is None for tensor in (*case[3:], weights))
    assert not result.per_token.requires_grad


def test_without_gradient_mode_the_values_are_the_same():
    case = _case(9)
    expected, _ = _run(case, make_divergence("reverse_kl"), chunk_tokens=2)
    teacher = hidden_teacher(case[3], Readout(case[4], case[5], num_ids=IDS))
    with torch.no_grad():
        result = chunked_divergence(
            case[0].requires_grad_(),
            Readout(case[1], case[2]),
            teacher,
            _weights(),
            make_divergence("reverse_kl"),
            chunk_tokens=2,
        )
    assert not result.loss.requires_grad
    assert torch.equal(result.loss, expected.loss.detach())
    assert torch.equal(result.per_token, expected.per_token)


def test_a_second_backward_is_refused():
    """The gradients are handed out, not copied: a second pass would add to what may belong to a parameter by now."""
    case = _case(10)
    hidden = case[0].clone().requires_grad_()
    teacher = hidden_teacher(case[3], Readout(case[4], case[5], num_ids=IDS))
    loss = chunked_divergence(hidden, Readout(case[1]), teacher, _weights(), make_divergence("forward_kl")).loss
    loss.backward(retain_graph=True)
    first = hidden.grad.clone()
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()
    assert torch.equal(hidden.grad, first)


def test_a_weight_used_twice_collects_both_gradients():
    """Tied embeddings: the readout's weight is the embedding table."""
    case = _case(11)
    teacher = hidden_teacher(case[3], Readout(case[4], case[5], num_ids=IDS))
    table = case[1].clone().requires_grad_()
    divergence = make_divergence("forward_kl")
    ids = torch.arange(N)
    chunked_divergence(table[ids], Readout(table), teacher, _weights(), divergence).loss.backward()
    apart, embedding = case[1].clone().requires_grad_(), case[1].clone().requires_grad_()
    chunked_divergence(embedding[ids], Readout(apart), teacher, _weights(), divergence).loss.backward()
    torch.testing.assert_close(table.grad, apart.grad + embedding.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tokens_give_a_zero_loss_with_a_gradient_path(dtype):
    hidden = torch.empty(0, 4, dtype=dtype, requires_grad=True)
    weight = torch.ones(7, 4, dtype=dtype, requires_grad=True)
    bias = torch.ones(7, dtype=dtype, requires_grad=True)
    result = chunked_divergence(
        hidden, Readout(weight, bias), full_teacher(torch.empty(0, 7)), torch.empty(0), make_divergence("jsd")
    )
    result.loss.backward()
    assert result.loss == 0 and result.per_token.shape == (0,)
    assert hidden.grad.shape == (0, 4)
    assert torch.equal(weight.grad, torch.zeros(7, 4, dtype=dtype))
    assert torch.equal(bias.grad, torch.zeros(7, dtype=dtype))


def test_padding_rows_of_the_weight_get_a_zero_gradient():
    _, gradients = _run(_case(12), make_divergence("forward_kl"), form=CAPPED)
    assert (gradients[1][10:] == 0).all() and (gradients[2][10:] == 0).all()
    assert (gradients[1][:10] != 0).any()


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd", "tvd"])
def test_ids_forbidden_to_both_leave_no_nan(kind):
    hidden = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    bias = torch.tensor([0.0, 0.1, 0.2, -float("inf")])
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
    logits = torch.tensor([[1.0, 0.0, 0.5, -float("inf")]]).expand(3, 4)
    result = chunked_divergence(
        hidden, Readout(weight, bias), full_teacher(logits), torch.full((3,), 1 / 3), make_divergence(kind)
    )
    result.loss.backward()
    assert result.loss.isfinite() and hidden.grad.isfinite().all() and weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student_hidden": torch.ones(3, 5)}, r"student_hidden \[3, 5\].*\[7, 4\]"),
        ({"student_hidden": torch.ones(1, 3, 4)}, r"\[1, 3, 4\]"),
        ({"token_weights": torch.ones(2)}, r"\[2\].*\[3, 4\]"),
        ({"teacher_logits": full_teacher(torch.ones(3, 9))}, r"\[3, 9\].*\[3, 7\].*num_ids"),
        ({"chunk_tokens": 0}, "chunk_tokens"),
        ({"teacher_temperature": 0.0}, "teacher_temperature"),
        ({"teacher_temperature": float("nan")}, "teacher_temperature"),
        ({"compute_dtype": torch.float16}, "compute_dtype"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    arguments = {
        "student_hidden": torch.ones(3, 4),
        "student_readout": Readout(torch.ones(7, 4)),
        "teacher_logits": full_teacher(torch.ones(3, 7)),
        "token_weights": torch.ones(3),
        "divergence": make_divergence("forward_kl"),
    }
    assert chunked_divergence(**arguments).loss == 0
    with pytest.raises(ValueError, match=message):
        chunked_divergence(**(arguments | changes))


def test_teachers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"teacher hidden \[3, 5\].*\[7, 4\]"):
        hidden_teacher(torch.ones(3, 5), Readout(torch.ones(7, 4)))
    with pytest.raises(ValueError, match=r"\[3\]"):
        full_teacher(torch.ones(3))
