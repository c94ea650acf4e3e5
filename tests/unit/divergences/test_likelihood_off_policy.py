"""The policy gradient of tokens that an older policy drew, against its definition in float64."""

import pytest
import torch

from gkd_dist.divergences import LikelihoodTerm

CAP = 1.5


def parts(seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    ids = torch.randint(0, 9, (6,), generator=generator)
    weights = torch.randn(6, generator=generator, dtype=torch.float64)
    behaviour = torch.log_softmax(logits + torch.randn(6, 9, generator=generator, dtype=torch.float64), -1)
    return logits, ids, weights, behaviour.gather(1, ids[:, None]).squeeze(1)


def test_every_token_is_weighed_by_the_capped_ratio_as_a_constant() -> None:
    logits, ids, weights, behaviour = parts()
    term = LikelihoodTerm(ids, weights, behaviour, CAP)
    chunk = term.chunk(logits.clone(), slice(0, 6), wants_slope=True, owns_logits=True)
    variable = logits.clone().requires_grad_()
    log_q = torch.log_softmax(variable, -1).gather(1, ids[:, None]).squeeze(1)
    ratio = (log_q.detach() - behaviour).exp().clamp(max=CAP)
    assert (ratio == CAP).any() and (ratio < CAP).any(), "some are capped, some are not"
    (-(weights * ratio * log_q).sum()).backward()
    torch.testing.assert_close(chunk.slope, variable.grad)
    torch.testing.assert_close(chunk.nats, -log_q.detach())


def test_the_students_own_draws_weigh_one() -> None:
    logits, ids, weights, _ = parts()
    own = torch.log_softmax(logits, -1).gather(1, ids[:, None]).squeeze(1)
    on, off = (
        LikelihoodTerm(ids, weights, behaviour).chunk(logits.clone(), slice(0, 6), wants_slope=True, owns_logits=False)
        for behaviour in (None, own)
    )
    torch.testing.assert_close(on.slope, off.slope)


def test_lengths_have_to_fit() -> None:
    _, ids, weights, behaviour = parts()
    with pytest.raises(ValueError, match="behaviour_log_probs"):
        LikelihoodTerm(ids, weights, behaviour[:3])
