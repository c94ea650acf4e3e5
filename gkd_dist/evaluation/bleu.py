"""Corpus BLEU and Self-BLEU by `sacrebleu` (Post, 2018; Zhu et al., arXiv 1802.01886)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gkd_dist.evaluation.intervals import Bootstrap, Figure, Indices, Values

MAX_ORDER = 4


@dataclass(frozen=True, slots=True)
class SignedFigure:
    """A figure with sacrebleu's statement of how it was computed."""

    figure: Figure
    signature: str


def corpus_bleu(
    groups: Sequence[Sequence[str]], references: Sequence[Sequence[str]], *, tokenize: str, bootstrap: Bootstrap
) -> SignedFigure:
    """BLEU of the whole corpus; the interval resamples rows and adds up their n-gram counts anew.

    Args:
        groups: the texts of each row, at least one; all of them count.
        references: at least one per row; their numbers may differ.
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize=tokenize)
    pairs = [(text, wanted) for texts, wanted in zip(groups, references, strict=True) for text in texts]
    score = metric.corpus_score([text for text, _ in pairs], _streams([wanted for _, wanted in pairs]))
    counter = BLEU(tokenize=tokenize, effective_order=True)  # its counts alone are used, and they are the same
    rows = []
    for texts, wanted in zip(groups, references, strict=True):
        scores = [counter.sentence_score(text, list(wanted)) for text in texts]
        rows.append(np.sum([[*own.counts, *own.totals, own.sys_len, own.ref_len] for own in scores], axis=0))
    table = np.asarray(rows, dtype=np.int64)

    def statistic(indices: Indices) -> Values:
        sums = table[indices].sum(axis=-2)
        flat = [_bleu(BLEU, sum_.tolist()) for sum_ in sums.reshape(-1, sums.shape[-1])]
        return np.asarray(flat).reshape(sums.shape[:-1])

    figure = bootstrap.figure([len(table)], statistic)
    if abs(figure.value - score.score) > 1e-9:
        raise ValueError(f"segments give a BLEU of {figure.value}, the corpus one of {score.score}")
    return SignedFigure(figure, str(metric.get_signature()))


def self_bleu(groups: Sequence[Sequence[str]], *, tokenize: str, bootstrap: Bootstrap) -> SignedFigure:
    """Mean over prompts of the mean sentence BLEU of each sample against the other samples of its prompt.

    0 where samples share no word, 100 where they are all the same.

    Args:
        groups: at least two samples for each prompt.
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize=tokenize, effective_order=True)
    means = []
    for samples in groups:
        others = [[*samples[:number], *samples[number + 1 :]] for number in range(len(samples))]
        scores = [metric.sentence_score(text, rest).score for text, rest in zip(samples, others, strict=True)]
        means.append(sum(scores) / len(scores))
    return SignedFigure(bootstrap.mean(means), str(metric.get_signature()))


def _bleu(metric: type, sums: list[int]) -> float:
    counts, totals = sums[:MAX_ORDER], sums[MAX_ORDER : 2 * MAX_ORDER]
    sys_len, ref_len = sums[2 * MAX_ORDER :]
    return float(metric.compute_bleu(counts, totals, sys_len, ref_len, smooth_method="exp").score)


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Sacrebleu's layout: one list per reference number, None where a segment has fewer."""
    most = max(len(each) for each in references)
    return [[each[number] if number < len(each) else None for each in references] for number in range(most)]
