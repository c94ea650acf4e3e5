"""From an evaluation's configuration to cases: all that can be checked before a model loads (floor F5)."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from gkd_dist.build.evaluation import EvalEngines
from gkd_dist.config.evaluation import EvalConfig, ShotsConfig
from gkd_dist.data.prompts import first_tokens
from gkd_dist.data.rendering import Renderer, check_same_tokenizer
from gkd_dist.data.rows import Row
from gkd_dist.data.sources import is_missing, no_such_file
from gkd_dist.errors import ConfigError, DataError, UserError
from gkd_dist.evaluation.predicting import Case
from gkd_dist.evaluation.questions import Question, read_questions
from gkd_dist.pipeline.job import Narrate
from gkd_dist.preparation.eval_needs import missing_device, missing_packages
from gkd_dist.preparation.eval_output import check_output
from gkd_dist.preparation.eval_reward import Asked, MakeReward, check_rows, fit_reward
from gkd_dist.preparation.output_file import output_problems
from gkd_dist.runs.run_directory import RunDirectory

T = TypeVar("T")
REWARD = "reward.model"


@dataclass(frozen=True)
class EvalJob:
    """What an evaluation asks, and whom."""

    config: EvalConfig
    cases: tuple[Case, ...]
    engines: EvalEngines
    renderer: Renderer
    num_dropped: int
    """Questions that were too long."""
    make_reward: MakeReward | None = None


def prepare_eval(config: EvalConfig, narrate: Narrate, *, output_dir: Path, file: Path | None = None) -> EvalJob:
    """Read the data, find the models, render, and check that everything fits.

    Args:
        output_dir: where the run directories are.
        file: `--output` of `gkd generate`; None: nothing is written to a file.

    Raises:
        ConfigError: every problem of a stage at once. Stages: packages, data and local folders; models; their fit.
    """
    from gkd_dist.models.packaged import default_cache_dir, materialise

    problems: list[str] = []
    questions, references = _find(config, output_dir, problems)
    problems += output_problems(file, "--output", {"--prompts": config.data, "not_in": config.not_in})
    if problems:
        raise ConfigError(problems)
    folders: dict[str, Path] = {}
    for key, reference in references.items():
        narrate(f"{key} {reference}")
        folder = _collect(problems, partial(materialise, reference, default_cache_dir()), f"{key}: ")
        if folder is not None:
            folders[key] = folder
    if problems:
        raise ConfigError(problems)
    return _fit(config, questions, folders)


def not_there(config: EvalConfig, unsure: Collection[str] = frozenset(), *, output_dir: Path) -> list[str]:
    """What a configuration needs and is not there, or cannot be read, one line each; it may break its own rules.

    Args:
        unsure: its keys that have no value of the user's: nothing is told of them, and data are not read.
    """
    problems: list[str] = []
    _find(config, output_dir, problems, unsure)
    return [problem for problem in problems if not problem.startswith(tuple(f"{key}: " for key in unsure))]


def _find(
    config: EvalConfig, output_dir: Path, problems: list[str], unsure: Collection[str] = frozenset()
) -> tuple[list[Question], dict[str, str]]:
    """The questions, and the references of `model`, perhaps `teacher`, perhaps `reward.model`."""
    from gkd_dist.models.packaged import already_here, default_cache_dir

    if "task" not in unsure:
        problems += missing_packages(config)
    problems += missing_device(config)
    questions = _questions(config, problems, is_read=not unsure)
    _collect(problems, lambda: check_output(config.output), "")
    references: dict[str, str] = {}
    for key, name in (("model", config.model), ("teacher", config.teacher)):
        if name is None:
            continue
        reference = _collect(problems, partial(model_reference, name, output_dir), f"{key}: ")
        if reference is not None:
            references[key] = reference
            _collect(problems, partial(already_here, reference, default_cache_dir()), f"{key}: ")
    _collect(problems, lambda: check_rows(config.reward, _asked(questions or []), config.data), "")
    if config.reward is not None and config.reward.model is not None:
        references[REWARD] = config.reward.model
        _collect(problems, partial(already_here, config.reward.model, default_cache_dir()), f"{REWARD}: ")
    return questions or [], references


def _questions(config: EvalConfig, problems: list[str], *, is_read: bool) -> list[Question] | None:
    """What is missing is told file by file, and the data are read all the same."""
    named = {"data": config.data, "not_in": config.not_in, "shots.path": config.shots.path}
    missing = {key: path for key, path in named.items() if path is not None and is_missing(path)}
    problems += [no_such_file(path, key) for key, path in missing.items()]
    if not is_read or "data" in missing or ("shots.path" in missing and config.task in ("mmlu", "bbh")):
        return None
    without: dict[str, Any] = {"not_in": None} if "not_in" in missing else {}
    if "shots.path" in missing:
        without["shots"] = ShotsConfig()
    return _collect(problems, lambda: read_questions(config.model_copy(update=without)), "")


def _asked(questions: Sequence[Question]) -> Asked:
    return [(each.prompt, each.references[0] if each.references else None) for each in questions]


def model_reference(name: str, output_dir: Path) -> str:
    """`name`, or the trained student of the run that it names.

    Raises:
        ConfigError: a run without a trained student.
    """
    run = _named_run(name, output_dir)
    if run is None:
        return name
    if not run.final.is_dir():
        raise ConfigError([f"the run {run.path} has no trained student yet; wait until it is finished"])
    return str(run.final)


def short_name(name: str, output_dir: Path) -> str:
    """Of a model, for a folder: of a run its own, also where `latest` names it."""
    run = _named_run(name, output_dir)
    return Path(name).name.replace(":", "-") if run is None else run.name


def _named_run(name: str, output_dir: Path) -> RunDirectory | None:
    named = any((path / "config.yaml").is_file() for path in (output_dir / name, Path(name)))
    return RunDirectory.find(name, output_dir) if named else None


def _fit(config: EvalConfig, questions: Sequence[Question], folders: dict[str, Path]) -> EvalJob:
    """Tokenizers, and prompts that fit into the model's positions."""
    from gkd_dist.models.suitability import context_limit

    problems: list[str] = []
    model, teacher = folders["model"], folders.get("teacher")
    chat = config.apply_chat_template
    if chat is None:
        chat = False if config.task in ("mmlu", "bbh") else "auto"
    renderer = _collect(problems, lambda: Renderer(str(model), apply_chat_template=chat), "model: ")
    num_ids = renderer.num_ids if renderer else 0
    if teacher is not None and renderer is not None:
        shared = _collect(problems, lambda: check_same_tokenizer(str(model), str(teacher)), "teacher: ")
        num_ids = shared or num_ids
    for key in [key for key in folders if key != REWARD]:
        _collect(problems, partial(_check_model, folders[key], key, config, num_ids), "")
    make_reward = _collect(problems, lambda: fit_reward(config, folders.get(REWARD), _asked(questions)), "")
    if problems or renderer is None:
        raise ConfigError(problems)

    @cache
    def room(num_taken: int) -> int | None:
        """What so many tokens leave in the positions of model and teacher; None: no end."""
        rooms = (context_limit(folder, num_taken) for key, folder in folders.items() if key != REWARD)
        return min((each for each in rooms if each is not None), default=None)

    room_behind = _room_behind(config, questions, renderer)
    limit = _limit(config, room(room_behind), room_behind)
    cases = _cases(config, questions, renderer, limit, room)
    if not cases:
        raise ConfigError([f"max_prompt_tokens: all {len(questions)} prompts are longer than {limit} tokens; raise it"])
    longest = max(int(case.prompt_ids.size) for case in cases)
    engines = EvalEngines(config, model, teacher, renderer, num_ids, longest + room_behind, cases[0].question.stops)
    return EvalJob(config, tuple(cases), engines, renderer, len(questions) - len(cases), make_reward)


def _check_model(folder: Path, key: str, config: EvalConfig, num_ids: int) -> None:
    """What can be seen without reading weights; a run's keys are told as those of an evaluation."""
    from gkd_dist.models.suitability import check_suitable, check_vocabulary

    engine = config.engine if key == "model" else "hf"
    problems: list[str] = []
    _collect(problems, lambda: check_suitable(folder, key, max_model_len=0, section="", engine=engine), "")
    _collect(problems, lambda: check_vocabulary(folder, key, num_ids), "")
    if problems:
        told = (problem.replace(f"{key}.model: ", f"{key}: ").replace(".engine", "engine") for problem in problems)
        raise ConfigError(list(told))


def _room_behind(config: EvalConfig, questions: Sequence[Question], renderer: Renderer) -> int:
    """Tokens behind a prompt: those that are written, or the longest option and the one with which vLLM ends."""
    options = {option for question in questions for option in question.options}
    if not options:
        return config.decoding.max_new_tokens
    return 1 + max(int(renderer.text_ids(option).size) for option in options)


def _limit(config: EvalConfig, room: int | None, room_behind: int) -> int | None:
    """Longest prompt, tokens; None: any."""
    if room is not None and room < (config.max_prompt_tokens or 1):
        raise ConfigError(
            [
                f"decoding.max_new_tokens: {room_behind} leave room for prompts of {max(room, 0)} "
                "tokens in the models' positions; lower it, or max_prompt_tokens"
            ]
        )
    return config.max_prompt_tokens or room


def _cases(
    config: EvalConfig,
    questions: Sequence[Question],
    renderer: Renderer,
    limit: int | None,
    room: Callable[[int], int | None],
) -> list[Case]:
    """
    Args:
        limit: longest prompt, tokens; None: any.
        room: for a reference behind a prompt of so many tokens; None: any.
    """
    cases = []
    overlong = 0
    for question in questions:
        ids = renderer.prompt_ids(Row(question.prompt))
        if ids.size == 0:
            raise ConfigError([f"data: row {question.index + 1} of {config.data} has an empty prompt; leave it out"])
        if limit is not None and ids.size > limit:
            overlong += 1
            if not config.overlong.startswith("truncate"):
                continue
            is_left = config.overlong == "truncate_left"
            ids = ids[-limit:] if is_left else first_tokens(ids, limit, renderer.stop_token_ids)
        reference, is_cut = None, False
        if config.teacher is not None and question.references:
            whole = renderer.completion_ids(Row(question.prompt, question.references[0]))
            reference = None if whole is None else whole[: room(int(ids.size))]
            is_cut = whole is not None and reference is not None and reference.size < whole.size
        options = tuple(renderer.text_ids(option) for option in question.options)
        cases.append(Case(question, ids, reference, is_cut, options))
    if overlong and config.overlong == "error":
        raise ConfigError(
            [
                f"overlong: {overlong} of {len(questions)} prompts have more than {limit} tokens; set overlong=drop, "
                "truncate_left or truncate_right, or give fewer examples (shots.num)"
            ]
        )
    return cases


def _collect(problems: list[str], attempt: Callable[[], T], prefix: str) -> T | None:
    """What `attempt` returns; its problems are added to the others, each under `prefix`."""
    try:
        return attempt()
    except ConfigError as error:
        problems += [f"{prefix}{problem}" for problem in error.problems]
    except (DataError, UserError) as error:
        problems.append(f"{prefix}{error}")
    return None
