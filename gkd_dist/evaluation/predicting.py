"""From rendered questions to predictions: write, compare options, measure distances."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gkd_dist.closing import Closing
from gkd_dist.config.evaluation import EvalConfig
from gkd_dist.evaluation.distances import distances
from gkd_dist.evaluation.multiple_choice import option_log_probs
from gkd_dist.evaluation.predictions import Prediction, Sample
from gkd_dist.evaluation.questions import Question
from gkd_dist.evaluation.writers import Completion, Kept, Progress, Writer, write_all
from gkd_dist.interfaces import Scorer
from gkd_dist.types import FinishReason, IntArray, Prompt, SampleId, SamplingParams, Source, Trajectory

RUN = "eval"
AT_ONCE = 1024
"""Prompts that an engine which makes its own batches gets, where drafts are kept."""


@dataclass(frozen=True, slots=True)
class Case:
    """One question as token ids."""

    question: Question
    prompt_ids: IntArray
    """[P] int32, P >= 1."""
    reference_ids: IntArray | None = None
    """[L] int32 of the first reference, ends with a stop token unless it is cut; None where no divergence is measured
    on it."""
    is_reference_cut: bool = False
    """Whether it is longer than the models' positions."""
    option_ids: tuple[IntArray, ...] = ()
    """[n] int32 each."""

    def prompt(self, repeat: int = 0) -> Prompt:
        return Prompt(SampleId(f"{RUN}:{self.question.subset or ''}", self.question.index, repeat), self.prompt_ids)


class Engines(Protocol):
    """Makes what is asked; `build.evaluation.EvalEngines` is one."""

    def make_writer(self) -> Writer: ...

    def make_option_scorer(self) -> Scorer: ...

    def make_student(self) -> Scorer: ...

    def make_teacher(self) -> Scorer: ...


class Language(Protocol):
    """What `data.rendering.Renderer` offers here."""

    @property
    def stop_token_ids(self) -> tuple[int, ...]: ...

    def decode(self, ids: IntArray) -> str: ...


Watch = Callable[[str, int], Progress]
"""`watch("completions", 20)` follows the progress of 20 of them."""


def prompts_of(config: EvalConfig, cases: Sequence[Case]) -> list[Prompt]:
    """What is asked: each case `decoding.num_samples` times, one after the other."""
    return [case.prompt(repeat) for case in cases for repeat in range(config.decoding.num_samples)]


async def predict(
    config: EvalConfig,
    cases: Sequence[Case],
    engines: Engines,
    language: Language,
    watch: Watch,
    kept: Kept | None = None,
) -> list[Prediction]:
    """One prediction per case, in order.

    Args:
        kept: where completions are kept while they are written, by place among `prompts_of` all; None: nowhere.
    """
    if cases[0].option_ids:
        return await _compare(config, cases, engines, watch)
    written = await _write(config, cases, engines, language, watch, kept)
    completions = [
        [_ended(each, case.question.stops, language) for each in own] for case, own in zip(cases, written, strict=True)
    ]
    predictions = [
        replace(_bare(config, case), samples=tuple(_sample(each, case.question.stops, language) for each in own))
        for case, own in zip(cases, completions, strict=True)
    ]
    if config.teacher is None:
        return predictions
    return await _measure(config, cases, completions, predictions, engines, watch)


async def _compare(config: EvalConfig, cases: Sequence[Case], engines: Engines, watch: Watch) -> list[Prediction]:
    async with Closing(engines.make_option_scorer()) as scorer:
        log_probs = await option_log_probs(
            scorer,
            [case.prompt() for case in cases],
            [case.option_ids for case in cases],
            batch_size=config.decoding.batch_size,
            progress=watch("questions", len(cases)),
        )
    return [replace(_bare(config, case), log_probs=own) for case, own in zip(cases, log_probs, strict=True)]


async def _write(
    config: EvalConfig,
    cases: Sequence[Case],
    engines: Engines,
    language: Language,
    watch: Watch,
    kept: Kept | None,
) -> list[list[Completion]]:
    """Per case, `num_samples` completions."""
    decoding = config.decoding
    prompts = prompts_of(config, cases)
    params = SamplingParams(
        max_new_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        top_k=decoding.top_k,
        stop_token_ids=language.stop_token_ids,
        seed=config.seed,
    )
    progress, at_once = watch("completions", len(prompts)), None if kept is None else AT_ONCE
    if kept is not None and len(kept.completions) == len(prompts):  # no engine is needed
        progress(len(prompts))
        return _grouped([kept.completions[place] for place in range(len(prompts))], decoding.num_samples)
    async with Closing(engines.make_writer()) as writer:
        written = await write_all(
            writer,
            prompts,
            params,
            batch_size=decoding.batch_size if config.engine == "hf" else at_once,
            progress=progress,
            kept=kept,
        )
    return _grouped(written, decoding.num_samples)


def _grouped(completions: Sequence[Completion], size: int) -> list[list[Completion]]:
    return [list(completions[start : start + size]) for start in range(0, len(completions), size)]


async def _measure(
    config: EvalConfig,
    cases: Sequence[Case],
    completions: Sequence[Sequence[Completion]],
    predictions: Sequence[Prediction],
    engines: Engines,
    watch: Watch,
) -> list[Prediction]:
    """Divergences on what the model wrote and on the references, both models on one text at a time."""
    own = [
        _trajectory(case, completion.token_ids)
        for case, group in zip(cases, completions, strict=True)
        for completion in group
    ]
    with_reference = [index for index, case in enumerate(cases) if case.reference_ids is not None]
    given = [_trajectory(cases[index], cases[index].reference_ids) for index in with_reference]
    async with Closing(engines.make_student()) as student, Closing(engines.make_teacher()) as teacher:
        progress = watch("divergences", len(own) + len(given))
        on_samples = await distances(student, teacher, own, progress)
        on_references = dict(zip(with_reference, await distances(student, teacher, given, progress), strict=True))
    number = config.decoding.num_samples
    return [
        replace(
            prediction,
            on_samples=tuple(on_samples[index * number : (index + 1) * number]),
            on_reference=on_references.get(index),
            is_reference_cut=cases[index].is_reference_cut,
        )
        for index, prediction in enumerate(predictions)
    ]


def _bare(config: EvalConfig, case: Case) -> Prediction:
    question = case.question
    return Prediction(
        task=config.task,
        index=question.index,
        prompt=question.prompt,
        references=question.references,
        subset=question.subset,
        options=question.options,
        log_probs=(0.0,) * len(question.options),
    )


def _ended(completion: Completion, stops: Sequence[str], language: Language) -> Completion:
    """Up to the first id behind which one of `stops` is in the text, which ends it as an end token does.

    What follows is no answer: a question of the model's own, or the padding of a row that ended before its batch.
    """
    ids = completion.token_ids

    def is_over(size: int) -> bool:
        text = language.decode(ids[:size])
        return any(stop in text for stop in stops)

    if not is_over(ids.size):
        return completion
    return Completion(ids[: bisect_left(range(ids.size), True, key=is_over)], False)


def _sample(completion: Completion, stops: Sequence[str], language: Language) -> Sample:
    """The text is without the stop that ends it."""
    text = language.decode(completion.token_ids)
    end = min((text.index(stop) for stop in stops if stop in text), default=None)
    return Sample(text[:end], int(completion.token_ids.size), completion.is_truncated)


def _trajectory(case: Case, ids: IntArray) -> Trajectory:
    """For scoring: who wrote it does not matter."""
    return Trajectory(
        sample_id=case.prompt().sample_id,
        prompt_ids=case.prompt_ids,
        completion_ids=ids,
        source=Source.GROUND_TRUTH,
        finish_reason=FinishReason.LENGTH,
    )
