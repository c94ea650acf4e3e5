"""What `gkd run`, `gkd eval` and `gkd validate` do, from a configuration to an exit code (floor F5)."""

import asyncio
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from gkd_dist.config.load import dump_run_config
from gkd_dist.config.run import RunConfig
from gkd_dist.interfaces import Metrics, RecordSink
from gkd_dist.metrics.console import Narrator, print_table
from gkd_dist.metrics.exporter import Exporter
from gkd_dist.metrics.run_directory import RunDirectory
from gkd_dist.metrics.sinks import JsonlSink, terminal_sink
from gkd_dist.pipeline.accounting import StepAccounts
from gkd_dist.pipeline.evaluation import Evaluation
from gkd_dist.pipeline.evaluation import evaluate as evaluate_fleet
from gkd_dist.pipeline.job import Outcome, distil
from gkd_dist.pipeline.sentinel import check_at_start
from gkd_dist.preparation import preflight as check_without_models
from gkd_dist.preparation import prepare
from gkd_dist.prepared import Job
from gkd_dist.reporting import card_of, figures, report, teacher_counts, teacher_name, text_of

logger = logging.getLogger(__name__)


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
    report(job, outcome, directory, narrate.elapsed_s)
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
    rows = [[name, text_of(value)] for name, value in figures(evaluation).items()]
    print_table(sys.stdout, f"{model or config.student.model} against {teacher_name(config)}", ["held out", ""], rows)
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
    narrate(f"starting {config.sampler.num_replicas} sampler(s), {teacher_counts(config)}, 1 learner")
    async with job.blueprint.fleet(metrics) as fleet:
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
    directory.write_card(card_of(job, outcome, accounts.num_trained_tokens))
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
        teacher=teacher_name(config),
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
