"""ROUGE-1, -2 and -L as F-measures, by the package `rouge-score` (Lin, 2004)."""

from collections.abc import Sequence

from gkd_dist.evaluation.names import KINDS_OF_ROUGE as KINDS


def rouge_scores(texts: Sequence[str], references: Sequence[Sequence[str]], *, stemmer: bool) -> dict[str, list[float]]:
    """By kind: one F-measure times 100 per text; of several references the best, for each kind by itself.

    Args:
        references: at least one per text.
        stemmer: Porter's, for words of more than three letters.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(KINDS), use_stemmer=stemmer)
    scored = [scorer.score_multi(list(wanted), text) for text, wanted in zip(texts, references, strict=True)]
    return {kind: [100 * each[kind].fmeasure for each in scored] for kind in KINDS}
