"""RL + GKD: a reward beside the divergence."""

from dataclasses import dataclass, replace

import torch

from gkd_dist.divergences import Divergence, LikelihoodTerm, Term
from gkd_dist.errors import EngineError
from gkd_dist.learners.objective import MicroBatch, Objective
from gkd_dist.learners.targets import completion_ids


@dataclass(frozen=True)
class Reinforced:
    """alpha * inner objective - (1 - alpha) * expected reward (arXiv 2306.13649, eq. 5), the latter by REINFORCE.

    The gradient of the second part is that of

        - (1 - alpha) / num_sequences * sum_i advantage_i * sum_t log q(y_it)

    over the sequences i that the student wrote. The log-prob of a sequence is the sum over its tokens, as the expected
    reward demands, while the divergence is a mean over them. The denominator is global and counts all sequences of the
    step, fixed pairs too: with a student_fraction below 1 the reward has that share of the batch, as in Algorithm 1.
    Exact where the policy that sampled is the one that is trained (staleness 0); where an older one sampled
    (`off_policy`), every token is weighed by the capped q / behaviour.

    The value of this part is a surrogate whose gradient is meant; it is no estimate of the reward.
    """

    inner: Objective
    alpha: float
    """In [0, 1]; 1 is `inner` itself, bit for bit."""
    off_policy: bool = False
    """Whether the samplers' weights may be older than the learner's."""
    max_importance: float = 2.0
    """See `divergences.importance_weights`."""

    def terms(self, batch: MicroBatch) -> list[Term]:
        """See `Objective`.

        Raises:
            EngineError: no advantages.
        """
        terms = self.inner.terms(batch)
        if self.alpha == 1:
            return terms
        if batch.advantages is None:
            raise EngineError("a batch without advantages cannot be reinforced; its sequences were not judged")
        scaled = [replace(term, weights=term.weights * self.alpha) for term in terms]
        if not batch.advantages.any():  # fixed pairs, or answers as good as expected: nothing to add
            return scaled
        lengths = torch.tensor(batch.lengths, device=batch.advantages.device)
        weights = (batch.advantages * ((1 - self.alpha) / batch.num_sequences)).repeat_interleave(lengths)
        behaviour = _behaviour(batch, weights.device) if self.off_policy else None
        ids = completion_ids(batch.scored, weights.device)
        return [*scaled, LikelihoodTerm(ids, weights, behaviour, self.max_importance)]

    def measuring(self, divergence: Divergence) -> Objective | None:
        """The inner objective's teachers; rewards are not compared."""
        return self.inner.measuring(divergence)


def _behaviour(batch: MicroBatch, device: torch.device) -> torch.Tensor:
    """[N] log-probs under the policy that wrote each token; of fixed pairs, which have no advantage, 0."""
    parts = [
        torch.zeros(item.trajectory.num_completion_tokens)
        if item.trajectory.behaviour_log_probs is None
        else torch.from_numpy(item.trajectory.behaviour_log_probs)
        for item in batch.scored
    ]
    return torch.cat(parts).to(device)
