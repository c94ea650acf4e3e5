"""From predictions to figures: which metrics a task has."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from gkd_dist.config.evaluation import TaskName
from gkd_dist.evaluation import gsm8k
from gkd_dist.evaluation.bleu import SignedFigure, corpus_bleu, self_bleu
from gkd_dist.evaluation.exact_match import matches
from gkd_dist.evaluation.intervals import Bootstrap, Figure
from gkd_dist.evaluation.predictions import Distance, Prediction
from gkd_dist.evaluation.rouge import rouge_scores


@dataclass(frozen=True, slots=True)
class MetricSettings:
    """What figures depend on besides the predictions."""

    rouge_stemmer: bool
    bleu_tokenize: str
    bootstrap: Bootstrap


@dataclass
class Report:
    """Figures by name, in the order in which they are shown."""

    figures: dict[str, Figure] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    """How metrics were computed, by the name of the package that says so."""

    def add(self, name: str, signed: SignedFigure) -> None:
        self.figures[name] = signed.figure
        self.signatures[name] = signed.signature


def compute(predictions: Sequence[Prediction], settings: MetricSettings) -> Report:
    """All figures of the task of these predictions, at least one.

    Segments of the bootstrap are rows: several samples of a row are averaged first; of BLEU their counts are added.
    """
    report = Report()
    _METRICS[predictions[0].task](predictions, settings, report)
    if predictions[0].rewards:
        rewards = [sum(each.rewards) / len(each.rewards) for each in predictions]
        report.figures["reward_mean"] = settings.bootstrap.mean(rewards)
    if predictions[0].samples:
        _samples(predictions, settings, report)
    _divergences(predictions, settings.bootstrap, report)
    return report


def _summarisation(predictions: Sequence[Prediction], settings: MetricSettings, report: Report) -> None:
    by_kind: dict[str, list[float]] = defaultdict(list)
    for each in predictions:
        texts = [sample.text for sample in each.samples]
        scores = rouge_scores(texts, [each.references] * len(texts), stemmer=settings.rouge_stemmer)
        for kind, values in scores.items():
            by_kind[kind].append(sum(values) / len(values))
    report.figures |= {kind: settings.bootstrap.mean(values) for kind, values in by_kind.items()}
    report.signatures["rouge"] = f"rouge-score F1 x 100, {'Porter' if settings.rouge_stemmer else 'no'} stemmer"


def _translation(predictions: Sequence[Prediction], settings: MetricSettings, report: Report) -> None:
    groups = [[sample.text for sample in each.samples] for each in predictions]
    references = [each.references for each in predictions]
    signed = corpus_bleu(groups, references, tokenize=settings.bleu_tokenize, bootstrap=settings.bootstrap)
    report.add("bleu", signed)


def _word_problems(predictions: Sequence[Prediction], settings: MetricSettings, report: Report) -> None:
    for name, marked in (("accuracy", True), ("accuracy_last_number", False)):
        is_right = partial(gsm8k.is_correct, marked=marked)
        report.figures[name] = settings.bootstrap.mean([_share(each, is_right) for each in predictions])


def _exact_match(predictions: Sequence[Prediction], settings: MetricSettings, report: Report) -> None:
    _by_subset(predictions, [_share(each, matches) for each in predictions], "exact_match", settings, report)


def _multiple_choice(predictions: Sequence[Prediction], settings: MetricSettings, report: Report) -> None:
    right = [float(each.options[_best(each.log_probs)] == each.references[0]) for each in predictions]
    _by_subset(predictions, right, "accuracy", settings, report)


def _generation(predictions: Sequence[Prediction], settings: MetricSettings, report: Report) -> None:
    """No reference is needed: what every task with text has."""


_METRICS: dict[TaskName, Callable[[Sequence[Prediction], MetricSettings, Report], None]] = {
    "summarisation": _summarisation,
    "translation": _translation,
    "gsm8k": _word_problems,
    "mmlu": _multiple_choice,
    "bbh": _exact_match,
    "generation": _generation,
}


def _by_subset(
    predictions: Sequence[Prediction], values: Sequence[float], name: str, settings: MetricSettings, report: Report
) -> None:
    """The unweighted mean over subsets, the mean over rows, and each subset by itself."""
    groups: dict[str, list[float]] = defaultdict(list)
    for each, value in zip(predictions, values, strict=True):
        groups[each.subset or ""].append(value)
    report.figures[f"{name}_task_average"] = settings.bootstrap.mean_of_means(list(groups.values()))
    report.figures[name] = settings.bootstrap.mean(values)
    if len(groups) > 1:
        report.figures |= {f"{name}/{subset}": settings.bootstrap.mean(own) for subset, own in groups.items()}


def _samples(predictions: Sequence[Prediction], settings: MetricSettings, report: Report) -> None:
    bootstrap = settings.bootstrap
    lengths = [sum(sample.num_tokens for sample in each.samples) / len(each.samples) for each in predictions]
    cut = [sum(sample.is_truncated for sample in each.samples) / len(each.samples) for each in predictions]
    report.figures["mean_length_tokens"] = bootstrap.mean(lengths)
    report.figures["truncated_share"] = bootstrap.mean(cut)
    groups = [[sample.text for sample in each.samples] for each in predictions]
    if all(len(group) > 1 for group in groups):
        report.add("self_bleu", self_bleu(groups, tokenize=settings.bleu_tokenize, bootstrap=bootstrap))


def _divergences(predictions: Sequence[Prediction], bootstrap: Bootstrap, report: Report) -> None:
    """Token means, nats; segments are rows."""
    on_samples = [each.on_samples for each in predictions if each.on_samples]
    on_reference = [(each.on_reference,) for each in predictions if each.on_reference]
    for place, rows in (("student_text", on_samples), ("reference_text", on_reference)):
        if not rows:
            continue
        tokens = [_sum(row, lambda own: own.num_tokens) for row in rows]
        for name in ("forward_kl", "reverse_kl", "jsd"):
            nats = [sum(getattr(own, name) for own in row) for row in rows]
            report.figures[f"{place}/{name}_nats"] = bootstrap.ratio(nats, tokens)


def _sum(row: Sequence[Distance], value: Callable[[Distance], float]) -> float:
    return sum(value(own) for own in row)


def _share(prediction: Prediction, is_right: Callable[[str, str], bool]) -> float:
    right = [is_right(sample.text, prediction.references[0]) for sample in prediction.samples]
    return sum(right) / len(right)


def _best(log_probs: Sequence[float]) -> int:
    """The first of the most probable."""
    return max(range(len(log_probs)), key=log_probs.__getitem__)
