"""The objective's maths (floor F0: torch only): divergences, their chunked form, reduction and alignment.

Letters: B sequences, T token positions, N packed valid tokens, V vocabulary, H hidden size. P is the teacher's
distribution and Q the student's; everything is in nats.

    from gkd_dist.divergences import forward_kl, reverse_kl, jsd, tvd

    nats = jsd(teacher_log_probs, student_log_probs, beta=0.25)  # [..., V] -> [...]
"""

from gkd_dist.divergences.alignment import predicting_positions
from gkd_dist.divergences.chunked import ChunkedResult, chunked_divergence, chunked_loss
from gkd_dist.divergences.dense import DenseTerm, TeacherLogits, full_teacher, hidden_teacher
from gkd_dist.divergences.importance import importance_weights
from gkd_dist.divergences.kinds import Divergence, DivergenceKind, ForwardKl, ReverseKl, make_divergence
from gkd_dist.divergences.mixture import MixedTeacher, MixtureKind, mixed_teacher
from gkd_dist.divergences.pointwise import (
    forward_kl,
    jsd,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    tvd,
)
from gkd_dist.divergences.readout import Readout
from gkd_dist.divergences.reduction import Reduction, token_weights
from gkd_dist.divergences.sampled import SampledTerm
from gkd_dist.divergences.selected import partition_log_probs, selected_log_probs
from gkd_dist.divergences.terms import LikelihoodTerm, Measuring, Term, TermChunk
from gkd_dist.divergences.topk import Tail, TopKTeacher, TopKTerm, topk_teacher

__all__ = [
    "forward_kl",
    "reverse_kl",
    "jsd",
    "tvd",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "Divergence",
    "ForwardKl",
    "ReverseKl",
    "DivergenceKind",
    "make_divergence",
    "Readout",
    "TeacherLogits",
    "hidden_teacher",
    "full_teacher",
    "MixedTeacher",
    "MixtureKind",
    "mixed_teacher",
    "Term",
    "TermChunk",
    "Measuring",
    "DenseTerm",
    "TopKTerm",
    "TopKTeacher",
    "topk_teacher",
    "Tail",
    "SampledTerm",
    "importance_weights",
    "LikelihoodTerm",
    "selected_log_probs",
    "partition_log_probs",
    "ChunkedResult",
    "chunked_loss",
    "chunked_divergence",
    "Reduction",
    "token_weights",
    "predicting_positions",
]
