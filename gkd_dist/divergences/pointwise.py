"""Divergences between two distributions over the vocabulary (floor F0): the public functions.

Each takes log-softmaxes and carries the analytic derivative with respect to the student's, so zero probabilities
(log-prob -inf) cost no NaN. Computation is in float32 or, if an argument has it, float64; halves are widened.

Source: Agarwal et al., "On-Policy Distillation of Language Models", arXiv 2306.13649, section 2 and eq. 1.
"""

from torch import Tensor

from gkd_dist.divergences.kinds import ForwardKl, Jsd, ReverseKl, SkewedForwardKl, SkewedReverseKl, Tvd


def forward_kl(teacher_log_probs: Tensor, student_log_probs: Tensor) -> Tensor:
    """KL(P || Q) = sum_v P * (log P - log Q), nats; inf where P has mass and Q has none.

    Args:
        teacher_log_probs: [..., V] float, log-softmax of the teacher; receives no gradient.
        student_log_probs: [..., V] float, log-softmax of the student.

    Returns:
        [...] float32 (float64 if an argument is), with gradient to the student alone.

    Raises:
        ValueError: the shapes differ, there is no vocabulary axis, or a dtype is not floating.
    """
    return ForwardKl()(teacher_log_probs, student_log_probs)


def reverse_kl(teacher_log_probs: Tensor, student_log_probs: Tensor) -> Tensor:
    """KL(Q || P) = sum_v Q * (log Q - log P), nats; inf (with no usable gradient) where Q has mass and P has none.

    Args, Returns, Raises: as `forward_kl`.
    """
    return ReverseKl()(teacher_log_probs, student_log_probs)


def jsd(teacher_log_probs: Tensor, student_log_probs: Tensor, beta: float = 0.5) -> Tensor:
    """Generalized Jensen-Shannon divergence beta * KL(P || M) + (1 - beta) * KL(Q || M), nats.

    It is finite for any P and Q and tends to 0 towards both ends of beta: divided by beta it tends to KL(P || Q)
    at 0, and divided by (1 - beta) to KL(Q || P) at 1.

    Args:
        teacher_log_probs: [..., V] float, log-softmax of the teacher; receives no gradient.
        student_log_probs: [..., V] float, log-softmax of the student.
        beta: weight of the teacher in M, 0 < beta < 1.

    Returns:
        [...] float32 (float64 if an argument is), with gradient to the student alone.

    Raises:
        ValueError: as `forward_kl`, or beta is not inside (0, 1).

    Source: arXiv 2306.13649, eq. 1.
    """
    return Jsd(beta)(teacher_log_probs, student_log_probs)


def tvd(teacher_log_probs: Tensor, student_log_probs: Tensor) -> Tensor:
    """Total variation distance 0.5 * sum_v |P - Q|, in [0, 1]; the derivative where P = Q is taken as 0.

    Args, Returns, Raises: as `forward_kl`.
    """
    return Tvd()(teacher_log_probs, student_log_probs)


def skewed_forward_kl(teacher_log_probs: Tensor, student_log_probs: Tensor, skew: float = 0.1) -> Tensor:
    """KL(P || skew * P + (1 - skew) * Q), nats: at most -log(skew) whatever the student.

    Args, Returns, Raises: as `forward_kl`; skew must be inside (0, 1).

    Source: DistiLLM, arXiv 2402.03898.
    """
    return SkewedForwardKl(skew)(teacher_log_probs, student_log_probs)


def skewed_reverse_kl(teacher_log_probs: Tensor, student_log_probs: Tensor, skew: float = 0.1) -> Tensor:
    """KL(Q || (1 - skew) * P + skew * Q), nats: at most -log(skew) whatever the teacher.

    Args, Returns, Raises: as `forward_kl`; skew must be inside (0, 1).

    Source: DistiLLM, arXiv 2402.03898.
    """
    return SkewedReverseKl(skew)(teacher_log_probs, student_log_probs)
