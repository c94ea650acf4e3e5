"""Importance weights of tokens that another policy drew."""

import math

from torch import Tensor


def importance_weights(log_q: Tensor, behaviour_log_probs: Tensor, max_importance: float) -> Tensor:
    """min(q / behaviour, max_importance) per token: expectations under Q from tokens of another policy.

    Each token is weighed by its own ratio, not by the product over the tokens before it, whose variance grows with
    length (MiniLLM, arXiv 2306.08543, section 2.2): prefixes stay those of the behaviour policy.

    Args:
        log_q: [N] under the student.
        behaviour_log_probs: [N] under the policy that wrote the tokens.
        max_importance: cap; it bounds the variance and biases what it cuts.
    """
    return (log_q - behaviour_log_probs.to(log_q)).clamp(max=math.log(max_importance)).exp()
