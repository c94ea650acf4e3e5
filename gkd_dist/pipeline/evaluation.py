"""Held-out evaluation through the ring's own parts: sample, score, compare."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gkd_dist.errors import LostTargetsError, RejectedError
from gkd_dist.fleet import Fleet
from gkd_dist.pipeline.judging import AnswerOf, judge
from gkd_dist.pipeline.learning import SCORE_AGAIN, train_batch
from gkd_dist.pipeline.rejection import in_part
from gkd_dist.pipeline.routing import TeachersOf
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
    """One per prompt, under the evaluation's sampling; the divergence is measured on these."""
    shown: tuple[Trajectory, ...]
    """Greedy answers to the first prompts."""
    reward_mean: float | None = None
    """Of the samples; None where the objective asks for no reward."""

    @property
    def mean_completion_tokens(self) -> float:
        return sum(sample.num_completion_tokens for sample in self.samples) / len(self.samples)

    @property
    def truncated_share(self) -> float:
        """Share of samples that hit the length limit."""
        return sum(sample.finish_reason is FinishReason.LENGTH for sample in self.samples) / len(self.samples)


async def evaluate(fleet: Fleet, held_out: HeldOut, version: int) -> Evaluation:
    """Evaluate the student that samplers and learner hold now (they must hold the same version).

    Args:
        version: policy version, for the batch's bookkeeping.
    """
    greedy = replace(held_out.sampling, temperature=0.0)
    samples = await _sample(fleet, held_out.prompts, held_out.sampling)
    return Evaluation(
        reward_mean=await _reward_mean(fleet, samples, held_out.answer_of),
        on_policy=await _divergence(fleet, samples, held_out.teachers_of, version) if fleet.teachers else None,
        reference=await _divergence(fleet, held_out.pairs, held_out.teachers_of, version) if held_out.pairs else None,
        samples=tuple(samples),
        shown=tuple(await _sample(fleet, held_out.prompts[: held_out.num_shown], greedy)),
    )


async def _sample(fleet: Fleet, prompts: Sequence[Prompt], params: SamplingParams) -> list[Trajectory]:
    return await fleet.samplers.spread(prompts, lambda sampler, share: sampler.sample(share, params))


async def _divergence(
    fleet: Fleet, trajectories: Sequence[Trajectory], teachers_of: TeachersOf | None, version: int
) -> DivergenceReport:
    for _ in range(SCORE_AGAIN):
        found = await in_part(trajectories, lambda part: score(fleet, part, teachers_of))
        scored = [item for item in found if item is not None]
        if not scored:
            raise RejectedError("no held-out sequence can be scored; the log says why")
        try:
            return await fleet.learner.evaluate(train_batch(version, scored))
        except LostTargetsError as error:
            lost = error
    raise lost


async def _reward_mean(fleet: Fleet, samples: Sequence[Trajectory], answer_of: AnswerOf | None) -> float | None:
    if fleet.reward is None or answer_of is None:
        return None
    rewards = await judge(fleet.reward, samples, answer_of)
    return sum(reward for reward in rewards if reward is not None) / len(samples)
