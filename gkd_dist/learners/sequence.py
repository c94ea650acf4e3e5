"""Reverse KL of whole sequences by policy gradient (MiniLLM: Gu et al., arXiv 2306.08543)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gkd_dist.divergences import (
    Divergence,
    LikelihoodTerm,
    ReverseKl,
    Term,
    hidden_teacher,
    importance_weights,
    partition_log_probs,
    selected_log_probs,
)
from gkd_dist.learners.objective import Distillation, MicroBatch
from gkd_dist.learners.targets import (
    TargetRules,
    TeacherView,
    behaviour_log_probs,
    completion_ids,
    divergence_term,
    mixed_logits,
    one_teacher,
    sampled_log_probs,
    teacher_logits,
    topk_targets,
)
from gkd_dist.targets import SampledTargets, TopKTargets
from gkd_dist.types import Source


@dataclass(frozen=True)
class SequenceReverseKl:
    """KL(Q(y | x) || P(y | x)) of whole completions, split as in section 2.2 of the paper.

    Single-step part: the reverse KL at each position (exact where the transport has distributions, else estimated).
    Long part: - sum over t of R[t + 1] * log q(y_t), with R[t + 1] = sum over t' > t of log p(y_t') - log q(y_t') held
    constant. With length normalisation R[t + 1] is the mean over the tokens that remain, 0 after the last one (the
    paper divides by one less). With weights of 1 and no normalisation the two parts are in expectation the
    gradient of the KL of sequences; a reduction weighs both by token. Under `topk` the log-ratios are those of the
    set's ids and of the bucket: the same objective for the coarser distributions.

    log q and log p of the written tokens are taken in a pass of its own before the loss, under the current student,
    at the price of projecting everything twice. With tokens of another policy
    (`rules.off_policy`) the long part is weighed by the capped q / behaviour of its token, as in the paper. The exact
    single-step part is not: given its prefix it does not depend on the token drawn, and the weight's mean is 1.

    The reported divergence is the single-step part's. Fixed completions get that part alone, since nothing there was
    drawn from Q; a configuration that would train on them is refused.
    """

    teachers: Mapping[str, TeacherView]
    rules: TargetRules
    length_normalized: bool = True

    def terms(self, batch: MicroBatch) -> list[Term]:
        single = divergence_term(batch.scored, ReverseKl(), batch.weights, self.teachers, self.rules)
        log_q, log_ratio = self._written(batch)
        weights = batch.weights * remaining(log_ratio, batch.lengths, mean=self.length_normalized).to(batch.weights)
        if self.rules.off_policy:
            behaviour = behaviour_log_probs(batch.scored, log_q.device)
            weights = weights * importance_weights(log_q, behaviour, self.rules.max_importance).to(weights)
        lengths = torch.tensor(batch.lengths, device=weights.device)
        own = torch.tensor([item.trajectory.source is Source.STUDENT for item in batch.scored], device=weights.device)
        weights = torch.where(own.repeat_interleave(lengths), weights, 0.0)
        return [single, LikelihoodTerm(completion_ids(batch.scored, weights.device), weights)]

    def measuring(self, divergence: Divergence) -> Distillation:
        return Distillation(divergence, self.teachers, self.rules)

    def _written(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """[N] log q of the tokens that were written, and their log p - log q (of the bucket, outside a top K)."""
        device, memory = batch.hidden.device, self.rules.memory_bytes
        ids = completion_ids(batch.scored, device)
        student = hidden_teacher(batch.hidden, batch.readout, compute_dtype=self.rules.compute_dtype)
        if self.rules.mixture is not None:
            mixed = mixed_logits(batch.scored, self.teachers, device, self.rules, self.rules.mixture)
            log_q = selected_log_probs(student, ids, memory_bytes=memory)
            return log_q, selected_log_probs(mixed, ids, memory_bytes=memory) - log_q
        targets, teacher = one_teacher(batch.scored, self.teachers)
        if isinstance(targets[0], TopKTargets):
            topk = topk_targets(targets, teacher, device, self.rules)
            log_q, inside, outside = partition_log_probs(student, ids, topk.ids, topk.real, memory_bytes=memory)
            log_p = topk.of(ids, topk.log_probs, topk.log_tail)
            return log_q, log_p - topk.of(ids, inside, outside)
        log_q = selected_log_probs(student, ids, memory_bytes=memory)
        if isinstance(targets[0], SampledTargets):
            return log_q, sampled_log_probs(targets, teacher, device) - log_q
        logits = teacher_logits(targets, teacher, device, self.rules)
        log_p = selected_log_probs(logits, ids, temperature=teacher.temperature, memory_bytes=memory)
        return log_q, log_p - log_q


def remaining(log_ratio: Tensor, lengths: Sequence[int], *, mean: bool) -> Tensor:
    """[N] sum (or mean) of `log_ratio` [N] over the tokens that follow each one in its sequence; 0 at the last."""
    parts = []
    for rows in log_ratio.split(list(lengths)):
        after = torch.cat([rows.flip(0).cumsum(0).flip(0)[1:], rows.new_zeros(1)])
        if mean:
            after = after / torch.arange(len(rows) - 1, -1, -1, device=rows.device).clamp(min=1)
        parts.append(after)
    return torch.cat(parts)
