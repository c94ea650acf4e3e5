"""What `gkd eval` with a recipe does, from a configuration to an exit code (floor F5)."""

import asyncio
import json
import sys

from gkd_dist.config.run import RunConfig
from gkd_dist.metrics.console import Narrator, aside, print_table
from gkd_dist.pipeline.evaluation import Evaluation
from gkd_dist.pipeline.evaluation import evaluate as evaluate_fleet
from gkd_dist.pipeline.sentinel import check_at_start
from gkd_dist.preparation import PreparedJob, prepare
from gkd_dist.reporting import describe, figures, known, student_name, teacher_name, text_of


def evaluate(config: RunConfig, model: str | None, *, as_json: bool) -> int:
    """Evaluate a student without training it; returns 0.

    Args:
        model: a saved student; None means the recipe's own.
    """
    with aside(as_json):
        narrate = Narrator()
        job = prepare(config, narrate, student=model, writes=False)
        for line in describe(job):
            narrate(line)
        evaluation = asyncio.run(_evaluate(job, narrate))
    if as_json:
        content = {
            "student": model or student_name(config),
            "teacher": teacher_name(config),
            "num_prompts": len(evaluation.samples),
            "left_out": evaluation.left_out,
            "held_out": known(figures(evaluation)),
        }
        print(json.dumps(content, ensure_ascii=False))
        return 0
    rows = [[name, text_of(value)] for name, value in figures(evaluation).items()]
    against = f" against {teacher_name(config)}" if config.named_teachers else ""
    print_table(sys.stdout, f"{model or config.student.model}{against}", ["held out", ""], rows)
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
