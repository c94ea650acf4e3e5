"""What `gkd run`, `gkd eval` and `gkd validate` do, from a configuration to an exit code (floor F5)."""

import asyncio
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from gkd_dist.config.load import dump_run_config
from gkd_dist.config.run import RunConfig
from gkd_dist.interfaces import Metrics, RecordSink
from gkd_dist.metrics.console import Narrator, print_side_by_side, print_table
from gkd_dist.metrics.exporter import Exporter
from gkd_dist.metrics.run_directory import RunDirectory
from gkd_dist.metrics.sinks import JsonlSink, terminal_sink
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.evaluation import Evaluation
from gkd_dist.pipeline.evaluation import evaluate as evaluate_fleet
from gkd_dist.pipeline.job import Outcome, distil
from gkd_dist.pipeline.sentinel import check_at_start
from gkd_dist.preparation import Job, prepare
from gkd_dist.preparation import preflight as check_without_models

logger = logging.getLogger(__name__)

SMALLEST_NATS = 1e-4
"""A divergence below this is noise; a share of it says nothing."""


def run(config: RunConfig) -> int:
    """Distil; returns 0 when the student is saved.

    Raises:
        GkdError: what went wrong; its `exit_code` is the command's.
    """
    narrate = Narrator()
    with ExitStack() as stack:
        exporter = stack.enter_context(_closing(Exporter()))
        _serve(exporter, config, narrate)
        job = prepare(config, narrate)
        directory = RunDirectory.create(config.output_dir, config.name)
        directory.write_config(dump_run_config(config))
        directory.write_versions()
        for line in describe(job):
            narrate(line)
        narrate(f"run directory {directory.path}")
        _name_run(exporter, config, directory)
        sinks: list[RecordSink] = [
            stack.enter_context(_closing(JsonlSink(directory.metrics))),
            stack.enter_context(_closing(terminal_sink(sys.stdout))),
        ]
        outcome = asyncio.run(_distil(job, directory, exporter, sinks, narrate))
    narrate(f"done; student in {directory.final}")
    _report(job, outcome, directory, narrate.elapsed_s)
    return 0


def evaluate(config: RunConfig, model: str | None) -> int:
    """Evaluate a student without training it; returns 0.

    Args:
        model: a saved student; None means the recipe's own.
    """
    narrate = Narrator()
    job = prepare(config, narrate, student=model, writes=False)
    for line in describe(job):
        narrate(line)
    evaluation = asyncio.run(_evaluate(job, narrate))
    rows = [[name, _text(value)] for name, value in _figures(evaluation).items()]
    print_table(sys.stdout, f"{model or config.student.model} against {_teacher_name(config)}", ["held out", ""], rows)
    return 0


def preflight(config: RunConfig) -> list[str]:
    """Check data, tokenizers and their fit, as far as no model has to be converted; lines that say what was found."""
    data, job, left = check_without_models(config)
    return describe(job) if job is not None else [f"data: {data.rows}", *left]


def prune(model: str, output: Path, num_layers: int, drop_layers: tuple[int, ...] | None) -> int:
    """Make a student by dropping decoder layers of `model`; returns 0.

    Raises:
        ModelError: no such model, numbers that do not fit it, or `output` is taken.
    """
    from gkd_dist.models.folders import default_cache_dir, require_free
    from gkd_dist.models.packaged import materialise
    from gkd_dist.models.pruning import prune as prune_model

    require_free(output)
    report = prune_model(materialise(model, default_cache_dir()), output, num_layers, drop_layers)
    rows = []
    for layer in sorted(report.dropped + report.kept):
        alone = f"{report.single_kl_nats[layer]:.3f}" if report.single_kl_nats else "-"
        rows.append([str(layer), alone, "dropped" if layer in report.dropped else "kept"])
    print_table(sys.stdout, model, ["layer", "KL without it (nats/token)", ""], rows)
    print(f"forward KL to the full model: {report.kl_nats:.3f} nats/token on held-out texts")
    print(f"parameters: {report.num_parameters / 1e6:.1f} million; {report.seconds:.0f} s; saved in {output}")
    return 0


def describe(job: Job) -> list[str]:
    """What a run would work on, one line per part."""
    blueprint, rendered = job.blueprint, job.rendered
    dropped = ", ".join(f"{number} {reason}" for reason, number in rendered.num_dropped.items()) or "none"
    teachers = "teacher" if len(blueprint.teachers) == 1 else "teachers"
    sources = ", ".join(f"{number} {source}" for source, number in job.rows.sources.items())
    return [
        f"data: {job.rows}",
        *([f"sources: {sources}"] if blueprint.config.objective.combine_teachers == "route" else []),
        f"prompts: {len(rendered.train)} to train on, {len(rendered.held_out)} held out, dropped: {dropped}, "
        f"longest {rendered.longest_tokens} tokens",
        f"tokenizer: {blueprint.num_ids} ids shared by student and {teachers}; chat template "
        f"{'applied' if job.renderer.uses_chat_template else 'not applied'}",
        *_reward_line(blueprint.config),
    ]


def _reward_line(config: RunConfig) -> list[str]:
    if config.reward is None:
        return []
    objective, num_generations = config.objective, config.sampling.num_generations
    return [
        f"reward: {config.reward.source}, {1 - objective.alpha:g} of the objective; baseline {objective.baseline}, "
        f"{num_generations} sample(s) of each prompt"
    ]


async def _distil(
    job: Job, directory: RunDirectory, metrics: Exporter, sinks: Sequence[RecordSink], narrate: Narrator
) -> Outcome:
    config = job.blueprint.config
    accounts = StepAccounts(max_steps=config.learner.max_steps, metrics=metrics, sinks=sinks)
    narrate(f"starting {config.sampler.num_replicas} sampler(s), {_teacher_counts(config)}, 1 learner")
    async with job.blueprint.fleet() as fleet:
        narrate("all engines are up")
        metrics.set_ready()
        outcome = await distil(
            job.plan(directory.name, directory.checkpoints),
            fleet,
            accounts,
            held_out=job.held_out(directory.name) if config.evaluation.enabled else None,
            metrics=metrics,
            final=directory.final,
            narrate=narrate,
        )
    directory.write_card(_card(job, outcome, accounts.num_trained_tokens))
    return outcome


async def _evaluate(job: Job, narrate: Narrator) -> Evaluation:
    held_out = job.held_out("eval")
    narrate("starting engines")
    async with job.blueprint.fleet() as fleet:
        await check_at_start(fleet)
        narrate(f"evaluating on {len(held_out.prompts)} held-out prompts")
        return await evaluate_fleet(fleet, held_out, 0)


def _serve(exporter: Exporter, config: RunConfig, narrate: Narrator) -> None:
    """Serve metrics where the configuration asks for that."""
    if config.metrics.port is not None:
        port = exporter.serve(config.metrics.host, config.metrics.port)
        narrate(f"metrics at http://{config.metrics.host}:{port}/metrics")


def _name_run(metrics: Metrics, config: RunConfig, directory: RunDirectory) -> None:
    """Set what is constant over the run."""
    metrics.gauge(
        "gkd_run_info",
        1,
        run=directory.name,
        student=config.student.model,
        teacher=_teacher_name(config),
        divergence=config.objective.divergence,
    )


class _Closable(Protocol):
    def close(self) -> None: ...


_Held = TypeVar("_Held", bound=_Closable)


@contextmanager
def _closing(held: _Held) -> Iterator[_Held]:
    """As `contextlib.closing`, but an error of the block is never hidden by one of closing: that is logged."""
    try:
        yield held
    except BaseException:
        try:
            held.close()
        except Exception as closing:
            logger.warning("closing after a failure failed too: %r", closing)
        raise
    held.close()


def _figures(evaluation: Evaluation) -> dict[str, float]:
    """Held-out numbers by name, with units in the name."""
    figures = {
        "on_policy/objective_nats": evaluation.on_policy.objective,
        "on_policy/forward_kl_nats": evaluation.on_policy.forward_kl,
        "on_policy/reverse_kl_nats": evaluation.on_policy.reverse_kl,
        "on_policy/mean_length_tokens": evaluation.mean_completion_tokens,
        "on_policy/truncated_share": evaluation.truncated_share,
    }
    if evaluation.reward_mean is not None:
        figures["on_policy/reward_mean"] = evaluation.reward_mean
    if evaluation.reference is not None:
        figures["reference/forward_kl_nats"] = evaluation.reference.forward_kl
    return figures


def _report(job: Job, outcome: Outcome, directory: RunDirectory, elapsed_s: float) -> None:
    """The table, the samples, and their files."""
    before, after = outcome.before, outcome.after
    if before is None or after is None:
        return
    samples = _sample_rows(job, before, after)
    directory.write_samples(samples)
    directory.write_summary(_summary(job, before, after, elapsed_s))
    for row in samples:
        if "before_greedy" in row:
            answers = {"before (greedy)": row["before_greedy"], "after (greedy)": row["after_greedy"]}
            print_side_by_side(sys.stdout, row["prompt"], answers)
    new = _figures(after)
    rows = [[name, _text(value), _text(new[name])] for name, value in _figures(before).items()]
    rows.append(["on-policy divergence falls by", "", _fall(before.on_policy.objective, after.on_policy.objective)])
    print_table(sys.stdout, f"{directory.name}, {elapsed_s:.0f} s", ["held out", "before", "after"], rows)


def _known(figures: dict[str, float]) -> dict[str, float | None]:
    """None for what is not a number, which JSON cannot hold."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def _text(value: float) -> str:
    """A figure to read; `n/a` where the teacher's transport cannot tell it."""
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def _fall(before: float, after: float) -> str:
    """By which share `after` is below `before`; `-` where there is nothing, or too little, to divide by."""
    return f"{1 - after / before:.0%}" if before >= SMALLEST_NATS and not math.isnan(after) else "-"


def _sample_rows(job: Job, before: Evaluation, after: Evaluation) -> list[dict[str, str]]:
    """One row per held-out prompt: what was sampled, and for the first ones the greedy answers."""
    decode = job.renderer.decode
    rows = []
    for index, held_out in enumerate(job.rendered.held_out):
        reference = held_out.completion_ids
        row = {
            "prompt": held_out.text,
            "before": decode(before.samples[index].completion_ids),
            "after": decode(after.samples[index].completion_ids),
            "reference": "" if reference is None else decode(reference),
        }
        if index < len(before.shown):
            row["before_greedy"] = decode(before.shown[index].completion_ids)
            row["after_greedy"] = decode(after.shown[index].completion_ids)
        rows.append(row)
    return rows


def _summary(job: Job, before: Evaluation, after: Evaluation, elapsed_s: float) -> dict[str, object]:
    config = job.blueprint.config
    return {
        "student": _student_name(config),
        "teacher": _teacher_name(config),
        "divergence": config.objective.divergence,
        "student_fraction": config.objective.student_fraction,
        "steps": config.learner.max_steps,
        "elapsed_s": round(elapsed_s, 1),
        "before": _known(_figures(before)),
        "after": _known(_figures(after)),
    }


def _student_name(config: RunConfig) -> str:
    prune = config.student.prune
    return config.student.model + (f", pruned to {prune.num_layers} layers" if prune else "")


def _teacher_name(config: RunConfig) -> str:
    """The teacher's model; of several, each with its part in the whole."""
    teachers, combine = config.named_teachers, config.objective.combine_teachers
    if combine is None:
        return ", ".join(teacher.model for teacher in teachers.values())
    if combine == "route":
        parts = [f"{name}: {teacher.model} for {', '.join(teacher.sources)}" for name, teacher in teachers.items()]
        return "; ".join(parts)
    total = sum(teacher.weight for teacher in teachers.values())
    parts = [f"{name}: {teacher.weight / total:.3g} of {teacher.model}" for name, teacher in teachers.items()]
    return f"{combine} mixture ({'; '.join(parts)})"


def _teacher_counts(config: RunConfig) -> str:
    """`1 teacher(s)`, or how many of each."""
    counts = {name: teacher.num_replicas for name, teacher in config.named_teachers.items()}
    each = f" ({', '.join(f'{number} {name}' for name, number in counts.items())})" if len(counts) > 1 else ""
    return f"{sum(counts.values())} teacher(s){each}"


def _card(job: Job, outcome: Outcome, num_trained_tokens: int) -> str:
    from gkd_dist.models.cards import DistillationFacts, model_card

    config = job.blueprint.config
    lora = config.student.lora
    return model_card(
        DistillationFacts(
            name=config.name,
            teacher=_teacher_name(config),
            student=_student_name(config),
            divergence=config.objective.divergence,
            student_fraction=config.objective.student_fraction,
            num_steps=config.learner.max_steps,
            num_trained_tokens=num_trained_tokens,
            adapter_of=job.blueprint.base_name() if lora is not None and lora.save == "adapter" else None,
            alpha=config.objective.alpha,
            reward=config.reward.source if config.reward else "",
            metrics={} if outcome.after is None else _figures(outcome.after),
        )
    )
