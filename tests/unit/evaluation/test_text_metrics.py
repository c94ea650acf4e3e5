"""ROUGE and BLEU against hand-computed cases and what their packages publish."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu as corpus_score

from gkd_dist.evaluation.bleu import corpus_bleu, self_bleu
from gkd_dist.evaluation.intervals import Bootstrap
from gkd_dist.evaluation.rouge import rouge_scores

BOOTSTRAP = Bootstrap(num_resamples=200)


def rouge(text: str, *references: str, stemmer: bool = False) -> dict[str, float]:
    return {kind: own[0] for kind, own in rouge_scores([text], [references], stemmer=stemmer).items()}


def test_rouge_by_hand() -> None:
    """Example of rouge-score's documentation: 'testing one two' against 'testing'."""
    assert rouge("testing", "testing one two") == {
        "rouge1": pytest.approx(100 * 2 * (1 / 3) / (1 + 1 / 3)),
        "rouge2": 0.0,
        "rougeL": pytest.approx(50.0),
    }
    # 5 of 6 words, 3 of 5 pairs, longest common subsequence 5.
    assert rouge("the cat sat on the mat", "the cat lay on the mat") == {
        "rouge1": pytest.approx(100 * 5 / 6),
        "rouge2": pytest.approx(100 * 3 / 5),
        "rougeL": pytest.approx(100 * 5 / 6),
    }


def test_rouge_takes_the_best_reference_and_stems_where_asked() -> None:
    assert rouge("a b", "c d", "a b")["rouge2"] == pytest.approx(100)
    assert rouge("walking dogs", "walked dog")["rouge1"] == 0.0
    assert rouge("walking dogs", "walked dog", stemmer=True)["rouge1"] == pytest.approx(100)


@given(*[st.lists(st.sampled_from(["walks", "walk", "dogs", "dog", "a", "the"]), min_size=1).map(" ".join)] * 2)
def test_rouge_of_t5_for_texts_of_one_line(text: str, reference: str) -> None:
    """`rouge1`, `rouge2` and `rougeLsum` without a stemmer, as in t5/evaluation/metrics.py."""
    scored = RougeScorer(["rouge1", "rouge2", "rougeLsum"]).score(target=reference, prediction=text)
    wanted = {kind.removesuffix("sum"): pytest.approx(100 * own.fmeasure) for kind, own in scored.items()}
    assert rouge(text, reference) == wanted


def bleu(texts: list[str], references: list[list[str]], tokenize: str = "13a") -> float:
    return corpus_bleu([[text] for text in texts], references, tokenize=tokenize, bootstrap=BOOTSTRAP).figure.value


def test_bleu_of_t5_has_other_tokens() -> None:
    """Quotation marks and dashes of German are tokens of their own in `intl` alone."""
    texts = ["Er sagt \u201eguten Tag\u201c \u2013 und geht.", "Das ist ein Haus am See."]
    references = ["Er sagt guten Tag und geht weg.", "Das ist das Haus am See."]
    official = {kind: corpus_score(texts, [references], tokenize=kind).score for kind in ("13a", "intl")}
    assert abs(official["13a"] - official["intl"]) > 1
    for kind, score in official.items():
        assert bleu(texts, [[each] for each in references], kind) == pytest.approx(score)


def test_bleu_by_hand() -> None:
    text, reference = "the cat is on the mat today", "the cat is on the mat"
    # 6/7 words, 5/6, 4/5 and 3/4 n-grams; no brevity penalty for the longer text.
    assert bleu([text], [[reference]]) == pytest.approx(100 * (6 / 7 * 5 / 6 * 4 / 5 * 3 / 4) ** 0.25)
    # The shorter one matches everywhere and pays exp(1 - 7/6).
    assert bleu([reference], [[text]]) == pytest.approx(100 * math.exp(1 - 7 / 6))


def test_samples_of_a_row_are_one_segment() -> None:
    signed = corpus_bleu([["a b c d", "x y z w"]], [["a b c d"]], tokenize="13a", bootstrap=BOOTSTRAP)
    assert signed.figure.value == pytest.approx(50)
    assert (signed.figure.num_segments, signed.figure.low) == (1, None)


def test_bleu_of_sacrebleus_readme() -> None:
    """The example of sacrebleu's README: three sentences, two references of which one lacks a segment."""
    references = [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ]
    texts = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    signed = corpus_bleu([[text] for text in texts], references, tokenize="13a", bootstrap=BOOTSTRAP)
    assert signed.figure.value == pytest.approx(48.530827, abs=1e-5)
    assert "tok:13a" in signed.signature and "version:" in signed.signature
    assert signed.figure.low is not None and signed.figure.low < 48.53 < signed.figure.high  # type: ignore[operator]


words = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1, max_size=9).map(" ".join)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_segments_add_up_to_the_corpus(rows: list[tuple[str, list[str]]]) -> None:
    """Also where no n-gram matches and counts are smoothed: `corpus_bleu` compares both ways and raises."""
    value = bleu([text for text, _ in rows], [references for _, references in rows])
    assert 0 <= value <= 100 + 1e-9


def test_self_bleu_is_100_for_copies_and_0_for_strangers() -> None:
    def value(groups: list[list[str]]) -> float:
        return self_bleu(groups, tokenize="13a", bootstrap=BOOTSTRAP).figure.value

    assert value([["a b c d e"] * 3]) == pytest.approx(100)
    assert value([["a a a a", "b b b b"]]) == pytest.approx(0)
    assert value([["a b c d e"] * 2, ["a a a a", "b b b b"]]) == pytest.approx(50)
