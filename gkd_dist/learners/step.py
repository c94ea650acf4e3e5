"""One train batch through the student: micro-batches forward, divergence, backward.

The gradient does not depend on how the batch is split, because every token carries its share of the global
denominator as a weight.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from gkd_dist.divergences import (
    Divergence,
    Measuring,
    ReverseKl,
    Term,
    chunked_loss,
    token_weights,
)
from gkd_dist.errors import EngineError
from gkd_dist.fault_points import fault_point
from gkd_dist.learners.behaviour import NUM_TOKENS, behaviour_gaps
from gkd_dist.learners.layouts import Layout, PaddedLayout
from gkd_dist.learners.model import StudentModel
from gkd_dist.learners.objective import MicroBatch, Objective
from gkd_dist.learners.stopwatch import Stopwatch
from gkd_dist.learners.targets import measurable
from gkd_dist.learners.world import ALONE, World
from gkd_dist.types import ScoredTrajectory, TrainBatch


@dataclass(frozen=True)
class LossSettings:
    """What turns hidden states into a loss."""

    objective: Objective
    reduction: str
    bf16: bool
    max_micro_batch_tokens: int
    pad_token_id: int
    num_ids: int
    """Real ids that student and teachers share; all are cut to them before any softmax."""
    layout: Layout = PaddedLayout()  # noqa: RUF009 - immutable
    """How the sequences of a forward lie beside each other."""
    loss_memory_bytes: int | None = None
    """For the logits of one chunk of the loss; None means the device's default."""
    behaviour_temperature: float | None = None
    """Of the samplers' log-probs, which are compared with the learner's own; None where they cannot be."""

    @property
    def compute_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.bf16 else torch.float32


def accumulate_gradient(
    student: StudentModel,
    batch: TrainBatch,
    settings: LossSettings,
    quantities: dict[str, float] | None = None,
    world: World = ALONE,
    watch: Stopwatch | None = None,
) -> float:
    """Add the gradient of the batch's loss to the parameters' .grad; returns its divergence in nats.

    Args:
        batch: this rank's share; loss, gradient and quantities are those of all shares together.
        quantities: receives what the terms measured, by name, as means over the tokens that have it.
        watch: gets the laps `forward` and `backward` of the body, and `head`: the loss with its gradient.

    Raises:
        EngineError: a completion with an id that is not shared, or targets that do not fit.
    """
    loss = 0.0
    measured: dict[str, tuple[float, int]] = {}
    gaps: list[float] = []
    watch = watch or Stopwatch(student.device)
    for indices in _rounds(batch.scored, settings, world):
        if not indices:
            (student.idle().sum() * 0.0).backward()
            continue
        group = [batch.scored[index] for index in indices]
        hidden = completion_hidden(student, group, settings)
        watch.lap("forward")
        weights = token_weights(
            [item.trajectory.num_completion_tokens for item in group],
            settings.reduction,
            num_sequences=batch.num_sequences,
            num_tokens=batch.num_tokens,
        )
        readout = student.readout(settings.num_ids)
        micro = MicroBatch(
            scored=group,
            hidden=hidden.detach(),
            readout=readout,
            weights=weights.to(hidden.device),
            num_sequences=batch.num_sequences,
            advantages=None
            if batch.advantages is None
            else torch.from_numpy(batch.advantages[indices]).to(hidden.device),
        )
        if quantities is not None and settings.behaviour_temperature:
            gaps += behaviour_gaps(
                group,
                micro.hidden,
                readout,
                version=batch.step,
                temperature=settings.behaviour_temperature,
                tokens_each=max(1, NUM_TOKENS // batch.num_sequences),
            )
        terms = settings.objective.terms(micro)
        result = chunked_loss(
            hidden,
            readout,
            terms,
            memory_bytes=settings.loss_memory_bytes,
            compute_dtype=settings.compute_dtype,
        )
        fault_point("learner.after_forward")
        watch.lap("head")
        result.loss.backward()
        watch.lap("backward")
        # What is not the divergence (a policy gradient's surrogate, say) has a gradient but no value worth reading.
        loss += torch.dot(micro.weights.to(result.per_token), result.per_token).item()
        if quantities is not None:
            _measure(terms, measured)
    losses, tables, parts = zip(*world.everyone([loss, measured, gaps]), strict=True)
    if quantities is not None:
        quantities.update(_means(tables))
        if gaps := [gap for part in parts for gap in part]:
            quantities |= {"behaviour_gap_mean_nats": sum(gaps) / len(gaps), "behaviour_gap_max_nats": max(gaps)}
    return sum(losses)


@torch.no_grad()
def token_divergences(
    student: StudentModel,
    scored: Sequence[ScoredTrajectory],
    divergences: Sequence[Divergence | None],
    settings: LossSettings,
    world: World = ALONE,
) -> list[float]:
    """Sum over all completion tokens of each divergence, nats; no gradient, teachers at their own temperatures.

    Args:
        scored: this rank's share; the sums are those of all shares together.
        divergences: None stands for the configured objective's first term.

    Returns:
        Not a number where the targets cannot tell, or there are none to compare with.
    """
    objectives = [settings.objective.measuring(each) if each else settings.objective for each in divergences]
    sums = [0.0] * len(divergences)
    for indices in _rounds(scored, settings, world):
        group = [scored[index] for index in indices]
        with student.evaluating():
            if not group:
                student.idle()
                continue
            hidden = completion_hidden(student, group, settings)
        readout = student.readout(settings.num_ids)
        weights = torch.ones(hidden.shape[0], device=hidden.device)
        nothing_rewarded = torch.zeros(len(group), device=hidden.device)
        micro = MicroBatch(group, hidden, readout, weights, len(scored), advantages=nothing_rewarded)
        told = [
            objective if objective is not None and measurable(group, divergence or ReverseKl()) else None
            for objective, divergence in zip(objectives, divergences, strict=True)
        ]
        firsts = [objective.terms(micro)[0] for objective in told if objective is not None]
        values = iter(())
        if firsts:  # together: the student is projected once
            result = chunked_loss(
                hidden, readout, firsts, memory_bytes=settings.loss_memory_bytes, compute_dtype=settings.compute_dtype
            )
            values = (nats.sum().item() for nats in result.per_term)
        sums = [total + (math.nan if known is None else next(values)) for total, known in zip(sums, told, strict=True)]
    return [sum(column) for column in zip(*world.everyone(sums), strict=True)]


def completion_hidden(student: StudentModel, group: Sequence[ScoredTrajectory], settings: LossSettings) -> torch.Tensor:
    """Student hidden states [N, H] at the positions that predict completion tokens, trajectory after trajectory."""
    with torch.autocast(student.device.type, torch.bfloat16, enabled=settings.bf16):
        return settings.layout.completion_hidden(student, [item.trajectory for item in group], settings.pad_token_id)


def _measure(terms: Sequence[Term], measured: dict[str, tuple[float, int]]) -> None:
    """Add sums and numbers of this micro-batch's tokens; those of a routed teacher may not be all of a step's."""
    for term in terms:
        if isinstance(term, Measuring):
            for name, values in term.measured.items():
                total, number = measured.get(name, (0.0, 0))
                measured[name] = total + values.sum().item(), number + values.numel()


def _means(tables: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Totals over numbers, each summed over ranks."""
    names = dict.fromkeys(name for table in tables for name in table)
    columns = {name: zip(*(table[name] for table in tables if name in table), strict=True) for name in names}
    return {name: sum(totals) / sum(numbers) for name, (totals, numbers) in columns.items()}


def _rounds(scored: Sequence[ScoredTrajectory], settings: LossSettings, world: World) -> list[list[int]]:
    """The micro-batches of this rank as indices of `scored`; empty ones make them as many as any rank has, because
    ranks compute forward and backward together.

    Raises:
        EngineError: at every rank, for what one of them cannot train on.
    """
    rounds = list(_micro_batches(scored, settings))
    problems, numbers = zip(*world.everyone([_problem(scored, settings.num_ids), len(rounds)]), strict=True)
    for problem in filter(None, problems):
        raise EngineError(problem)
    return rounds + [[]] * (max(numbers) - len(rounds))


def _problem(scored: Sequence[ScoredTrajectory], num_ids: int) -> str | None:
    """Both softmaxes are cut to `num_ids`: a token beyond them would be trained on as if it could not occur."""
    for item in scored:
        largest = int(item.trajectory.completion_ids.max())
        if largest >= num_ids:
            return (
                f"the completion of {item.trajectory.sample_id} contains id {largest}, but student and teacher share "
                f"only the ids below {num_ids}"
            )
    return None


def _micro_batches(scored: Sequence[ScoredTrajectory], settings: LossSettings) -> Iterator[list[int]]:
    """Indices of `scored`, group by group; the trajectories of a group have the same teachers."""
    panels: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, item in enumerate(scored):
        panels[tuple(score.teacher for score in item.scores)].append(index)
    for indices in panels.values():
        trajectories = [scored[index].trajectory for index in indices]
        for group in settings.layout.groups(trajectories, settings.max_micro_batch_tokens):
            yield [indices[position] for position in group]
