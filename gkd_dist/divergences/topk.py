"""Teachers of whom the K most probable ids are known (floor F0).

The ids of the set are compared one by one and everything else as one bucket: a coarser partition of the vocabulary,
which can only lower a divergence (data processing inequality). What it loses shrinks as K grows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from gkd_dist.divergences.kinds import Divergence
from gkd_dist.divergences.terms import TermChunk

Tail = Literal["bucket", "generalized"]

_ROUNDINGS = 8
"""The set of a row whose tail is not empty holds at most 1 less this many roundings: a float32 sum may exceed 1."""


@dataclass(frozen=True, slots=True, eq=False)
class TopKTeacher:
    """A distribution over K ids and one bucket for all others, of each of N tokens; made by `topk_teacher`."""

    ids: Tensor
    """[N, K] int64, below num_ids; meaningless where not `real`."""
    real: Tensor
    """[N, K] bool; False where the teacher's id lies beyond num_ids."""
    log_probs: Tensor
    """[N, K] float32 or float64; -inf where not `real`."""
    log_tail: Tensor
    """[N] log-prob of the bucket; -inf where no id is left for it."""

    @property
    def mass(self) -> Tensor:
        """[N] probability of the set."""
        return -torch.expm1(self.log_tail)

    def of(self, ids: Tensor, of_set: Tensor, of_tail: Tensor) -> Tensor:
        """[N] per token, the entry of `of_set` [N, K] at `ids` [N] int64, or that of `of_tail` [N] outside the set."""
        hit = self.real & (self.ids == ids.unsqueeze(1))
        inside = of_set.gather(1, hit.to(torch.int8).argmax(1, keepdim=True)).squeeze(1)
        return torch.where(hit.any(1), inside, of_tail)


def topk_teacher(token_ids: Tensor, log_probs: Tensor, *, num_ids: int, temperature: float = 1.0) -> TopKTeacher:
    """What a teacher's top K says at `temperature` about the first `num_ids` ids.

    Ids beyond num_ids are cut, and the rest is normalised by what is left, as where the whole distribution is known.
    (Such ids in the tail cannot be told apart; they stay in the bucket.)

    Below temperature 1 the tail becomes tail * p_K ** (1 / temperature - 1) before normalisation, p_K the least of the
    set: the most it can be, since no id outside is more probable. The partition is then wrong by at most the bucket's
    own share in total variation, 1 - mass, and exact where there is no tail. Above 1 a tail of unknown shape would
    come to dominate.

    Args:
        token_ids: [N, K] int, no id twice in a row.
        log_probs: [N, K] float, at temperature 1, normalised over the teacher's whole vocabulary.
        num_ids: number of ids that are compared, V.
        temperature: of the teacher's softmax, in (0, 1].

    Raises:
        ValueError: shapes that differ, an id twice in a row or below 0, or a number out of range.
    """
    _check(token_ids, log_probs, num_ids, temperature)
    log_p = log_probs.detach().to(torch.promote_types(log_probs.dtype, torch.float32))
    real = token_ids < num_ids
    log_tail = log1mexp(log_p.logsumexp(-1)).masked_fill(real.sum(-1) == num_ids, -math.inf)
    least = log_p.amin(-1)
    log_p = log_p.masked_fill(~real, -math.inf)
    if temperature != 1.0:
        power = 1.0 / temperature
        log_p, log_tail = power * log_p, log_tail + (power - 1) * least
    log_z = torch.logaddexp(log_p.logsumexp(-1), log_tail)
    ids = token_ids.to(torch.int64).masked_fill(~real, 0)
    return TopKTeacher(ids, real, log_p - log_z.unsqueeze(-1), log_tail - log_z)


@dataclass(frozen=True, slots=True, eq=False)
class TopKTerm:
    """Divergence from a teacher over its K ids and the rest, with gradient to all V logits of the student.

    `bucket` compares K + 1 entries of two distributions. `generalized` compares the K ids alone, as measures that do
    not sum to 1: entry + balance * (q - p), see `Divergence`. Both are lower bounds of the divergence over all ids
    and at least 0, and generalized <= bucket.

    Raises:
        ValueError: another tail.
    """

    teacher: TopKTeacher
    divergence: Divergence
    weights: Tensor
    """[N] float32, from `reduction.token_weights`; receives no gradient."""
    tail: Tail = "bucket"

    def __post_init__(self) -> None:
        if self.tail not in get_args(Tail):
            raise ValueError(f"unknown tail {self.tail!r}; choose one of {', '.join(get_args(Tail))}")

    @property
    def measured(self) -> Mapping[str, Tensor]:
        """See `terms.Measuring`."""
        return {"teacher_mass": self.teacher.mass}

    def chunk(self, logits: Tensor, span: slice, *, wants_slope: bool, owns_logits: bool) -> TermChunk:
        """See `terms.Term.chunk`."""
        ids, real = self.teacher.ids[span], self.teacher.real[span]
        log_p = torch.cat([self.teacher.log_probs[span], self.teacher.log_tail[span, None]], dim=1).to(logits)
        chosen = logits.gather(1, ids).masked_fill(~real, -math.inf)
        rest = logits if owns_logits else logits.clone()
        # A cut slot takes nothing out: the minimum with +inf.
        taken = torch.where(real, -math.inf, math.inf).to(rest)
        rest.scatter_reduce_(1, ids, taken, "amin")
        log_rest = rest.logsumexp(1, keepdim=True)
        log_q = torch.log_softmax(torch.cat([chosen, log_rest], dim=1), dim=1)
        entries, slope = self._entries(log_p, log_q)
        nats = entries.sum(1)
        if not wants_slope:
            return TermChunk(nats, None)
        slope = (slope - log_q.exp() * slope.sum(1, keepdim=True)) * self.weights[span].to(slope).unsqueeze(1)
        # The bucket's score is a log-sum-exp: its derivative goes to its ids in proportion. Empty: 0, not -inf + inf.
        shares = rest.sub_(log_rest.clamp(min=torch.finfo(rest.dtype).min)).exp_()
        return TermChunk(nats, shares.mul_(slope[:, -1:]).scatter_add_(1, ids, slope[:, :-1]))

    def _entries(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        """[n, K + 1] entries and their derivatives with respect to log_q; the bucket is last."""
        entries, slope = self.divergence.entries(log_p, log_q)
        if self.tail == "generalized":
            p, q, balance = log_p.exp(), log_q.exp(), self.divergence.balance
            entries, slope = entries + balance * (q - p), slope + balance * q
            entries[:, -1], slope[:, -1] = 0.0, 0.0
        return entries, slope


def log1mexp(log_mass: Tensor) -> Tensor:
    """log(1 - exp(x)), precise at both ends; x >= 0, a mass that rounding made 1 or more, counts as just below 0."""
    x = log_mass.clamp(max=math.log1p(-_ROUNDINGS * torch.finfo(log_mass.dtype).eps))
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-x.exp()))


def _check(token_ids: Tensor, log_probs: Tensor, num_ids: int, temperature: float) -> None:
    if token_ids.shape != log_probs.shape or token_ids.ndim != 2 or token_ids.shape[1] < 1:
        raise ValueError(
            f"token_ids {list(token_ids.shape)} and log_probs {list(log_probs.shape)} must both be [N, K], K >= 1"
        )
    if num_ids < 1:
        raise ValueError(f"num_ids must be at least 1, got {num_ids}")
    if not 0 < temperature <= 1:
        raise ValueError(
            f"a top-K teacher can be re-tempered to (0, 1], got {temperature}: above 1 the unknown tail decides; "
            "use another transport"
        )
    ordered = token_ids.sort(dim=1).values
    if (ordered[:, :1] < 0).any() or (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError("token_ids must be at least 0, and no id may stand twice in a row")
