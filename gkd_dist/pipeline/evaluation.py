"""Held-out evaluation through the ring's own parts: sample, score, compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gkd_dist.errors import LostTargetsError, RejectedError
from gkd_dist.fleet import Fleet
from gkd_dist.pipeline.judging import AnswerOf, judge
from gkd_dist.pipeline.learning import SCORE_AGAIN, train_batch
from gkd_dist.pipeline.rejection import in_part
from gkd_dist.pipeline.routing import TeachersOf, ask
from gkd_dist.pipeline.scoring import score
from gkd_dist.types import DivergenceReport, FinishReason, Prompt, SamplingParams, Trajectory


@dataclass(frozen=True)
class HeldOut:
    """What the student is evaluated on."""

    prompts: Sequence[Prompt]
    pairs: Sequence[Trajectory]
    """Reference completions; empty where the data has none."""
    sampling: SamplingParams
    num_shown: int
    """So many prompts are also answered greedily, to be read side by side."""
    max_teacher_tokens: int = 0
    """Most tokens of the teachers' own answers to these; 0: none are asked for."""
    answer_of: AnswerOf | None = None
    """The text of a sample with its prompt and reference; None where the objective asks for no reward."""
    teachers_of: TeachersOf | None = None
    """Who scores a sample; None: every teacher scores every sample."""


@dataclass(frozen=True)
class Evaluation:
    """How far the student is from the teacher, or from the references where there is no teacher; held out."""

    on_policy: DivergenceReport | None
    """On completions the student wrote; None where there is no teacher to compare with."""
    reference: DivergenceReport | None
    """On reference completions; None where the data has none."""
    samples: tuple[Trajectory, ...]
    """One per prompt that was not refused, under the evaluation's sampling; the divergence is measured on these."""
    shown: tuple[Trajectory, ...]
    """Greedy answers to the first prompts, likewise."""
    reward_mean: float | None = None
    """Of the samples; None where the objective asks for no reward."""
    num_unsampled: int = 0
    """Prompts that every sampler refused, or answered wrongly: left out of all figures."""
    num_unscored: int = 0
    """Sequences, of the student and references, that a teacher refused or answered wrongly: left out of divergences."""

    @property
    def mean_completion_tokens(self) -> float:
        return sum(sample.num_completion_tokens for sample in self.samples) / len(self.samples)

    @property
    def truncated_share(self) -> float:
        """Share of samples that hit the length limit."""
        return sum(sample.finish_reason is FinishReason.LENGTH for sample in self.samples) / len(self.samples)

    @property
    def left_out(self) -> str:
        """What its figures do not cover, in words; empty where they cover everything."""
        parts = [f"{self.num_unsampled} prompt(s) that no sampler answered"] if self.num_unsampled else []
        parts += [f"{self.num_unscored} sequence(s) that a teacher did not score"] if self.num_unscored else []
        return " and ".join(parts)


async def evaluate(
    fleet: Fleet, held_out: HeldOut, version: int, progressed: Callable[[], None] = lambda: None
) -> Evaluation:
    """Evaluate the student that samplers and learner hold now (they must hold the same version).

    Args:
        version: policy version, for the batch's bookkeeping.
        progressed: told of every answer of the learner and the reward; those of replicas are counted by their pools.

    Raises:
        RejectedError: every prompt was refused, or every sequence of one kind; single ones are left out and counted.
    """
    greedy = replace(held_out.sampling, temperature=0.0)
    samples = await _sample(fleet, held_out.prompts, held_out.sampling)
    if not samples:
        raise RejectedError("no held-out prompt can be answered; the log says why")
    reward_mean = await _reward_mean(fleet, samples, held_out.answer_of)
    progressed()
    on_policy, on_reference = [
        await _divergence(fleet, trajectories, held_out.teachers_of, version, progressed) if trajectories else None
        for trajectories in (samples if fleet.teachers else (), held_out.pairs)
    ]
    measured = [each for each in (on_policy, on_reference) if each is not None]
    return Evaluation(
        reward_mean=reward_mean,
        on_policy=None if on_policy is None else on_policy.report,
        reference=None if on_reference is None else on_reference.report,
        samples=tuple(samples),
        shown=tuple(await _sample(fleet, held_out.prompts[: held_out.num_shown], greedy)),
        num_unsampled=len(held_out.prompts) - len(samples),
        num_unscored=sum(each.num_unscored for each in measured),
    )


async def _sample(fleet: Fleet, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
    """Answers in the order of `prompts`; those that every sampler refuses are left out."""

    async def answers(part: Sequence[Prompt]) -> list[Trajectory]:
        return await ask(
            fleet.samplers,
            part,
            lambda sampler, share: sampler.sample(share, params),
            whole_steps=len(part) == len(prompts),
        )

    return [each for each in await in_part(prompts, answers) if each is not None]


@dataclass(frozen=True)
class _Measured:
    report: DivergenceReport
    num_unscored: int


async def _divergence(
    fleet: Fleet,
    trajectories: Sequence[Trajectory],
    teachers_of: TeachersOf | None,
    version: int,
    progressed: Callable[[], None],
) -> _Measured:
    for _ in range(SCORE_AGAIN):
        found = await in_part(trajectories, lambda part: score(fleet, part, teachers_of))
        scored = [item for item in found if item is not None]
        if not scored:
            raise RejectedError("no held-out sequence can be scored; the log says why")
        try:
            report = await fleet.learner.evaluate(train_batch(version, scored))
            progressed()
            return _Measured(report, len(found) - len(scored))
        except LostTargetsError as error:
            lost = error
    raise lost


async def _reward_mean(fleet: Fleet, samples: Sequence[Trajectory], answer_of: AnswerOf | None) -> float | None:
    if fleet.reward is None or answer_of is None:
        return None
    rewards = await judge(fleet.reward, samples, answer_of)
    return sum(reward for reward in rewards if reward is not None) / len(samples)
