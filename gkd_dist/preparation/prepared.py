"""What preparation makes: checked data, and a job with what the ring and the evaluation are given (floor F5)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gkd_dist.build import Blueprint
from gkd_dist.data.mixture import Mixture
from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.data.prompts import PromptStream, RenderedPrompts
from gkd_dist.data.rendering import Renderer
from gkd_dist.data.routes import SourceRoute, teacher_by_source
from gkd_dist.data.rows import Rows
from gkd_dist.pipeline.baselines import LeaveOneOut, MovingAverage
from gkd_dist.pipeline.evaluation import HeldOut
from gkd_dist.pipeline.judging import AnswerOf
from gkd_dist.pipeline.ring import Plan, Reinforcement
from gkd_dist.pipeline.routing import TeachersOf
from gkd_dist.types import Answer, Prompt, SamplingParams, Source, Trajectory


@dataclass(frozen=True)
class Data:
    """What could be checked without a model."""

    rows: Rows
    mixture: Mixture
    max_prompt_tokens: int


@dataclass(frozen=True)
class PreparedJob:
    """A checked configuration with its data rendered."""

    blueprint: Blueprint
    rows: Rows
    rendered: RenderedPrompts
    renderer: Renderer
    mixture: Mixture

    def plan(self, run: str, students: Path) -> Plan:
        """What the ring is to do under the name `run`.

        Args:
            students: receives those that are saved on the way.
        """
        config = self.blueprint.config
        batch_size = config.learner.batch_size
        stream = PromptStream(self.rendered.train, run=run, seed=config.seed, shuffle=config.data.shuffle)
        ahead = config.max_staleness + 1
        return Plan(
            run=run,
            stream=stream,
            fixed_source=Source(config.data.written_by),
            teachers_of=self._teachers_of(stream),
            mixture=self.mixture,
            sampling=replace(
                self._sampling(config.sampling.max_new_tokens, config.sampling.temperature),
                teacher_mix=config.sampling.teacher_mix,
            ),
            batch_size=batch_size,
            max_steps=config.learner.max_steps,
            whole_steps=config.mode == "sync",
            max_staleness=config.max_staleness,
            max_uses=config.replay.max_uses,
            replay_capacity=config.replay.capacity or max(2, ahead) * batch_size,
            save_steps=config.learner.save_steps,
            sentinel_steps={name: teacher.sentinel_steps for name, teacher in config.named_teachers.items()},
            students=students,
            reinforcement=self._reinforcement(stream) if config.reward else None,
            is_evaluated=config.evaluation.enabled,
        )

    def held_out(self, run: str) -> HeldOut:
        """Held-out prompts, their reference completions, and how the student answers them."""
        config = self.blueprint.config
        max_new_tokens = config.evaluation.max_new_tokens or config.sampling.max_new_tokens
        stream = PromptStream(self.rendered.held_out, run=f"{run}:held-out", seed=config.seed, shuffle=False)
        prompts = [stream.prompt(index) for index in range(stream.num_rows)]
        return HeldOut(
            prompts=prompts,
            teachers_of=self._teachers_of(stream),
            pairs=self._references(prompts, max_new_tokens),
            sampling=self._sampling(max_new_tokens, config.evaluation.temperature),
            num_shown=config.evaluation.num_samples_shown,
            max_teacher_tokens=config.evaluation.max_teacher_tokens,
            answer_of=self._answer_of(stream) if config.reward else None,
        )

    def _teachers_of(self, stream: PromptStream) -> TeachersOf | None:
        config = self.blueprint.config
        if config.objective.combine_teachers != "route":
            return None
        return SourceRoute(stream, teacher_by_source(config.named_teachers))

    def _reinforcement(self, stream: PromptStream) -> Reinforcement:
        objective, num_generations = self.blueprint.config.objective, self.mixture.num_generations
        if objective.baseline == "leave_one_out":
            return Reinforcement(self._answer_of(stream), lambda _: LeaveOneOut(num_generations))
        return Reinforcement(self._answer_of(stream), partial(MovingAverage, objective.baseline_decay))

    def _answer_of(self, stream: PromptStream) -> AnswerOf:
        """Turns trajectories on rows of `stream` into text."""

        def answer(trajectory: Trajectory) -> Answer:
            row = stream.row(trajectory.sample_id.prompt_index)
            return Answer(row.text, self.renderer.decode(trajectory.completion_ids), row.reference)

        return answer

    def _references(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Trajectory]:
        return [
            fixed_trajectory(prompt.sample_id, row.prompt_ids, row.completion_ids, max_new_tokens)
            for prompt, row in zip(prompts, self.rendered.held_out, strict=True)
            if row.completion_ids is not None
        ]

    def _sampling(self, max_new_tokens: int, temperature: float) -> SamplingParams:
        sampling = self.blueprint.config.sampling
        return SamplingParams(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            stop_token_ids=self.renderer.stop_token_ids,
            seed=self.blueprint.config.seed,
        )
