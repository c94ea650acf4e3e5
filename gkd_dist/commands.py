"""What `gkd eval`, `gkd validate`, `gkd rows` and `gkd prune` do, from a configuration to an exit code (floor F5)."""

import asyncio
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

from gkd_dist.config.run import RunConfig
from gkd_dist.data.readers import read_rows
from gkd_dist.data.rows import Row
from gkd_dist.disk import write_whole
from gkd_dist.metrics.console import Narrator, print_table
from gkd_dist.pipeline.evaluation import Evaluation
from gkd_dist.pipeline.evaluation import evaluate as evaluate_fleet
from gkd_dist.pipeline.sentinel import check_at_start
from gkd_dist.preparation import preflight as check_without_models
from gkd_dist.preparation import prepare
from gkd_dist.prepared import PreparedJob
from gkd_dist.reporting import describe, figures, teacher_name, text_of

logger = logging.getLogger(__name__)


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
    against = f" against {teacher_name(config)}" if config.named_teachers else ""
    print_table(sys.stdout, f"{model or config.student.model}{against}", ["held out", ""], rows)
    return 0


def preflight(config: RunConfig) -> list[str]:
    """Check data, tokenizers and their fit, as far as no model has to be converted; lines that say what was found."""
    data, job, left = check_without_models(config)
    return describe(job) if job is not None else [f"data: {data.rows}", *left]


def rows(config: RunConfig, output: Path | None) -> int:
    """The rows of a recipe's data as JSON lines of `prompt` and `completion`, templates applied; returns 0.

    Args:
        output: None prints them.

    Raises:
        DataError: they cannot be read.
    """
    lines = [f"{json.dumps(_columns(row), ensure_ascii=False)}\n" for row in read_rows(config.data).rows]
    if output is None:
        sys.stdout.writelines(lines)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, "".join(lines).encode())
        print(f"{len(lines)} rows in {output}")
    return 0


def _columns(row: Row) -> dict[str, object]:
    prompt = row.prompt if isinstance(row.prompt, str) else [asdict(message) for message in row.prompt]
    return {"prompt": prompt} | ({} if row.completion is None else {"completion": row.completion})


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


async def _evaluate(job: PreparedJob, narrate: Narrator) -> Evaluation:
    held_out = job.held_out("eval")
    narrate("starting engines")
    async with job.blueprint.fleet(say=narrate) as fleet:
        await check_at_start(fleet)
        narrate(f"evaluating on {len(held_out.prompts)} held-out prompts")
        evaluation = await evaluate_fleet(fleet, held_out, 0)
    if evaluation.left_out:
        narrate(f"left out of the evaluation: {evaluation.left_out}; the log says why")
    return evaluation
