"""Where the results of an evaluation go, and what is kept beside them until they are there (floor F5)."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gkd_dist.errors import ConfigError, RunError
from gkd_dist.evaluation.authorship import author
from gkd_dist.evaluation.drafts import Drafts, draft_path
from gkd_dist.evaluation.predicting import prompts_of
from gkd_dist.evaluation.predictions import Prediction, write_predictions
from gkd_dist.pipeline.job import Narrate
from gkd_dist.runs.run_directory import check_output_dir

if TYPE_CHECKING:
    from gkd_dist.eval_preparation import EvalJob

PREDICTIONS, RESULTS = "predictions.jsonl", "results.json"
_PARENT = Path("evaluations")
"""Of folders that the user gives no name."""


def check_output(folder: Path | None) -> None:
    """
    Raises:
        ConfigError: it cannot be written, or holds something. Predictions without figures may be of a command that was
            stopped where drafts are beside them: `begun` knows whose they are.
    """
    if folder is None:
        return
    check_writable(folder)
    names = _names(folder)
    if PREDICTIONS in names and RESULTS not in names:
        if names != {PREDICTIONS} or not draft_path(folder.resolve()).exists():
            raise _without_figures(folder)
    elif names:
        what = "results" if names & {RESULTS, PREDICTIONS} else "files"
        raise ConfigError([f"output: {folder} holds {what} already; choose a new or an empty folder"])


def check_writable(folder: Path) -> None:
    """
    Raises:
        ConfigError: no file can be made in it, or beside it, where drafts are.
    """
    try:
        for each in (folder, folder.absolute().parent):
            check_output_dir(each)
    except ConfigError as error:
        raise ConfigError([problem.replace("output_dir: ", "output: ") for problem in error.problems]) from error


@contextmanager
def begun(job: "EvalJob", name: str, narrate: Narrate) -> Iterator[tuple[Path, Drafts | None]]:
    """The folder for the results, and what is kept beside it where text is written: nobody else writes in the block.

    Args:
        name: of a folder below `evaluations`, where the user gives none. One in which the same command was stopped is
            taken again.

    Raises:
        ConfigError: the folder holds what another command wrote.
        RunError: another process writes there.
    """
    with ExitStack() as held:
        find = _unnamed_folder if job.config.output is None else _named_folder
        folder, drafts = find(job, name, narrate, held)
        try:
            yield folder, drafts
        except BaseException:
            if job.config.output is None and not (drafts and drafts.completions):
                with suppress(OSError):  # it is not empty
                    folder.rmdir()
            raise


def drafts_of(job: "EvalJob", output: Path, narrate: Narrate) -> Drafts:
    """Beside `output`, whose folder is made."""
    output.parent.mkdir(parents=True, exist_ok=True)
    own = author(job.config, job.engines.model)
    return Drafts(draft_path(output), own, prompts_of(job.config, job.cases), narrate)


def put_predictions(predictions: Sequence[Prediction], folder: Path, content: dict[str, Any] | None = None) -> None:
    """Into a folder that is new or empty, or holds what a command left that was stopped.

    Args:
        content: of the results, which come with them; None: later.
    """
    from gkd_dist.evaluation.results import whole_folder, write_results

    is_left = folder.exists() and any(folder.iterdir()) and _names(folder) <= {PREDICTIONS}
    with ExitStack() as draft:
        there = folder if is_left else draft.enter_context(whole_folder(folder))
        write_predictions(predictions, there / PREDICTIONS)
        if content is not None:
            write_results(content, there / RESULTS)


def _names(folder: Path) -> set[str]:
    """Of what is in it, perhaps nothing; but for hidden files: a kill leaves one where a file was being written."""
    return {path.name for path in folder.glob("*") if not path.name.startswith(".")}


def _hold(drafts: Drafts, held: ExitStack) -> None:
    """Nobody else writes there until the end; in that of an error, drafts without a completion are removed."""

    def discard(kind: object, *_: object) -> None:
        if kind is not None and not drafts.completions:
            drafts.discard()

    held.enter_context(drafts)
    held.push(discard)


def _named_folder(job: "EvalJob", _: str, narrate: Narrate, held: ExitStack) -> tuple[Path, Drafts | None]:
    folder = job.config.output or Path()
    drafts = drafts_of(job, folder.resolve(), narrate) if _writes(job) else None
    if (folder / PREDICTIONS).exists() and not (drafts and drafts.is_begun):
        raise _without_figures(folder)  # before drafts of another command are moved
    if drafts is not None:
        _hold(drafts, held)
        check_output(folder)  # another process may have come as far meanwhile:
        if (folder / PREDICTIONS).exists() and not drafts.completions:  # of this command, all are kept
            raise _without_figures(folder)
    return folder, drafts


def _unnamed_folder(job: "EvalJob", name: str, narrate: Narrate, held: ExitStack) -> tuple[Path, Drafts | None]:
    from gkd_dist.evaluation.results import free_folder

    if not _writes(job):
        return free_folder(_PARENT, name), None
    for path in sorted(_PARENT.glob(f"{escape(name)}-*.draft")):
        folder = path.with_suffix("")
        drafts = drafts_of(job, folder.resolve(), narrate)
        if drafts.is_begun:
            with suppress(RunError):  # another process writes there
                _hold(drafts, held)
                if not (folder / RESULTS).exists():
                    return folder, drafts
                drafts.discard()
    folder = free_folder(_PARENT, name)
    drafts = drafts_of(job, folder.resolve(), narrate)
    _hold(drafts, held)
    return folder, drafts


def _writes(job: "EvalJob") -> bool:
    """Text; otherwise options are compared, of which nothing is kept."""
    return not job.cases[0].option_ids


def _without_figures(folder: Path) -> ConfigError:
    told = f"holds what a model wrote, without figures: gkd eval --predictions {folder}/{PREDICTIONS} computes them"
    return ConfigError([f"output: {folder} {told}; or choose a new or an empty folder"])
