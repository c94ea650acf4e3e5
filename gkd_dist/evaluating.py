"""What `gkd eval` with a task and `gkd generate` do, from a configuration to an exit code (floor F5)."""

import asyncio
import json
import shlex
import sys
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gkd_dist.config.evaluation import EvalConfig
from gkd_dist.data.formats import TRUNCATED
from gkd_dist.disk import write_whole
from gkd_dist.errors import DeadlineError, EngineError
from gkd_dist.eval_preparation import EvalJob, prepare_eval, short_name
from gkd_dist.metrics.console import Narrator, aside, print_table
from gkd_dist.preparation.eval_again import held_output, prepare_again
from gkd_dist.preparation.eval_output import PREDICTIONS, RESULTS, begun, drafts_of, put_predictions
from gkd_dist.preparation.eval_reward import MakeReward, prepare_reward

if TYPE_CHECKING:
    from gkd_dist.evaluation.drafts import Drafts

SECONDS_BETWEEN_LINES = 10.0


def evaluate(config: EvalConfig, *, as_json: bool, output_dir: Path) -> int:
    """Ask the model, compute the figures, write and print them; returns 0.

    What it writes is kept beside the output until the results are there, and the same command goes on behind it.

    Args:
        output_dir: where run directories are, one of which may be the model.
    """
    from gkd_dist.evaluation.results import write_results

    with aside(as_json):
        narrate = Narrator()
        job = prepare_eval(config, narrate, output_dir=output_dir)
        narrate(describe(job))
        name = f"{short_name(config.model, output_dir)}-{config.task}"
        with begun(job, name, narrate) as (folder, drafts):
            predictions = _predict(job, narrate, drafts)
            if job.make_reward is not None:
                predictions = _judge_kept(predictions, job.make_reward, folder, config, narrate)
            facts = {
                "task": config.task,
                "model": config.model,
                "model_path": str(job.engines.model.resolve()),
                "num_rows": len(predictions),
                "num_dropped": job.num_dropped,
                "settings": config.model_dump(mode="json"),
                "seconds": round(narrate.elapsed_s, 1),
            }
            content = _content(predictions, config, facts)
            if job.make_reward is None:
                put_predictions(predictions, folder, content)
            else:
                write_results(content, folder / RESULTS)
            if drafts is not None:
                drafts.discard()
    _tell(content, folder, as_json)
    return 0


def recompute(file: Path, config: EvalConfig, given: Collection[str], *, as_json: bool) -> int:
    """The figures of predictions that are there already; returns 0.

    Args:
        config: without a reward, the figure is that of the rewards that were kept; with one, its rewards go with the
            predictions to the output.
        given: its keys that stand on the command line, each of which must have a part in this.
    """
    from gkd_dist.evaluation.predictions import write_predictions
    from gkd_dist.evaluation.results import write_results

    predictions, config = prepare_again(file, config, given)
    rewarded = None if config.reward is None or config.output is None else config.output / PREDICTIONS
    asked = [(each.prompt, each.references[0] if each.references else None) for each in predictions]
    with held_output(config.output, file):
        with aside(as_json):
            make_reward = prepare_reward(config, asked, str(file))
            if make_reward is not None:
                predictions = _judge(predictions, make_reward, Narrator())
        facts = {"task": config.task, "predictions": str(file), "num_rows": len(predictions)}
        content = _content(predictions, config, facts)
        if rewarded is not None:
            write_predictions(predictions, rewarded)
        if config.output is not None:
            write_results(content, config.output / RESULTS)
    _tell(content, config.output, as_json)
    return 0


def generate(config: EvalConfig, output: Path | None, *, output_dir: Path) -> int:
    """One JSON line for each prompt, with its row (`index`, from 0: too long ones may be missing), its completions, and
    for each of these whether the length limit ended it.

    Returns 0.

    Args:
        output: None prints them. While they are written they are kept beside it, and the same command goes on there.
    """
    with aside(output is None):
        narrate = Narrator()
        job = prepare_eval(config, narrate, output_dir=output_dir, file=output)
        narrate(describe(job))
        if output is not None:
            if output.exists():
                narrate(f"{output} is there already, and is written anew")
            with drafts_of(job, output, narrate) as drafts:
                write_whole(output, _lines(_predict(job, narrate, drafts)).encode())
                drafts.discard()
            return 0
        text = _lines(_predict(job, narrate))
    sys.stdout.write(text)
    return 0


def _lines(predictions: Sequence[Any]) -> str:
    """JSON lines of what was written."""
    lines = (
        json.dumps(
            {
                "index": each.index,
                "prompt": each.prompt,
                "completions": [sample.text for sample in each.samples],
                TRUNCATED: [sample.is_truncated for sample in each.samples],
            },
            ensure_ascii=False,
        )
        for each in predictions
    )
    return "".join(f"{line}\n" for line in lines)


def describe(job: EvalJob) -> str:
    """What is asked, in one line."""
    subsets = {case.question.subset for case in job.cases} - {None}
    dropped = f", {job.num_dropped} dropped for their length" if job.num_dropped else ""
    of_subsets = f" of {len(subsets)} subsets" if len(subsets) > 1 else ""
    chat = "applied" if job.renderer.uses_chat_template else "not used"
    longest = f"longest prompt {max(case.prompt_ids.size for case in job.cases)} tokens"
    return f"{job.config.task}: {len(job.cases)} rows{of_subsets}{dropped}; {longest}; chat template {chat}"


def _predict(job: EvalJob, narrate: Narrator, kept: "Drafts | None" = None) -> list[Any]:
    """
    Args:
        kept: where completions are kept while they are written; None: nowhere.
    """
    from gkd_dist.evaluation.predicting import predict

    watch = partial(_watch, narrate)
    return asyncio.run(predict(job.config, job.cases, job.engines, job.renderer, watch, kept))


def _judge_kept(
    predictions: list[Any], make_reward: MakeReward, folder: Path, config: EvalConfig, narrate: Narrator
) -> list[Any]:
    """As `_judge`; what the model wrote is in `folder` before, whatever becomes of the reward, and with it after."""
    from gkd_dist.evaluation.predictions import write_predictions

    file = folder / PREDICTIONS
    put_predictions(predictions, folder)
    try:
        predictions = _judge(predictions, make_reward, narrate)
    except BaseException as error:
        keys = {} if config.reward is None else config.reward.model_dump(mode="json", exclude_unset=True)
        words = [f"--predictions={file}", f"output={folder}", *(f"reward.{key}={keys[key]}" for key in keys)]
        hint = f"what the model wrote is kept; judge it with: gkd eval {shlex.join(words)}"
        if isinstance(error, DeadlineError | EngineError):
            raise type(error)(f"{error}\n{hint}") from error
        narrate(hint)
        raise
    write_predictions(predictions, file)
    return predictions


def _judge(predictions: list[Any], make_reward: MakeReward, narrate: Narrator) -> list[Any]:
    """With rewards."""
    from gkd_dist.evaluation.judging import judge

    num_answers = sum(len(each.samples) for each in predictions)
    return asyncio.run(judge(predictions, make_reward(), _watch(narrate, "rewards", num_answers)))


def _watch(narrate: Narrator, what: str, total: int) -> Callable[[int], None]:
    """Tells now and then how many there are."""
    done, told = 0, time.monotonic()

    def progress(more: int) -> None:
        nonlocal done, told
        done += more
        if done == total or time.monotonic() - told > SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            narrate(f"{done} of {total} {what}")

    return progress


def _content(predictions: Sequence[Any], config: EvalConfig, facts: dict[str, Any]) -> dict[str, Any]:
    from gkd_dist.evaluation.intervals import Bootstrap
    from gkd_dist.evaluation.metrics import MetricSettings, compute
    from gkd_dist.evaluation.results import results

    bootstrap = Bootstrap(config.num_resamples, config.confidence, config.seed)
    settings = MetricSettings(config.rouge_stemmer, config.bleu_tokenize, bootstrap)
    if any(each.on_reference for each in predictions):
        facts |= {"num_references_cut": sum(each.is_reference_cut for each in predictions)}
    report = compute(predictions, settings)
    if config.reward is not None:
        report.signatures["reward"] = config.reward.source
    return results(report, settings, facts)


def _tell(content: dict[str, Any], folder: Path | None, as_json: bool) -> None:
    """Print the results.

    Args:
        folder: where they were written; None: nowhere.
    """
    from gkd_dist.evaluation.intervals import Figure
    from gkd_dist.evaluation.results import row_of

    if as_json:
        print(json.dumps(content, ensure_ascii=False))
        return
    rows = [row_of(name, Figure(**figure)) for name, figure in content["figures"].items()]
    title = f"{content.get('model') or content['predictions']}, {content['task']}"
    interval = f"{100 * content['intervals']['confidence']:g}% interval"
    print_table(sys.stdout, title, ["figure", "", interval, "n"], rows)
    for name, signature in content["signatures"].items():
        print(f"{name}: {signature}")
    if cut := content.get("num_references_cut"):
        print(f"reference_text/*: {cut} references were cut: they are longer than the models' positions")
    if folder is not None:
        print(f"written to {folder}")
