"""From the rows of a data file to questions: what a model is asked, and what it should have said."""

from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from gkd_dist.config.evaluation import EvalConfig
from gkd_dist.data.faults import Faults
from gkd_dist.data.formats import cell
from gkd_dist.data.sources import Record, records
from gkd_dist.errors import DataError
from gkd_dist.evaluation.gsm8k import last_number
from gkd_dist.evaluation.shots import NO_SHOTS, Shots, bbh_shots, gsm8k_shots, mmlu_prefix, mmlu_question

_COLUMNS = {
    "summarisation": ("prompt", "completion"),
    "translation": ("prompt", "completion"),
    "gsm8k": ("question", "answer"),
    "bbh": ("input", "target"),
    "generation": ("prompt", None),
}
"""Prompt and reference of each task, where `fields` names no others."""
_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")


@dataclass(frozen=True, slots=True)
class Question:
    """One row as text."""

    index: int
    prompt: str
    """Template and examples applied; not the chat template."""
    references: tuple[str, ...] = ()
    subset: str | None = None
    options: tuple[str, ...] = ()
    """To be compared instead of writing text; the reference is one of them."""
    stops: tuple[str, ...] = ()
    """Where a completion goes on to a question of its own, at the first of any of them."""


def read_questions(config: EvalConfig) -> list[Question]:
    """All questions of the configured data, at least one, in the order of the source.

    Raises:
        DataError: no such file, a missing column, a wrong type (each with its place), or nothing left.
    """
    questions = list(_READERS.get(config.task, _plain_questions)(config))
    if not questions:
        raise DataError(f"data: {config.data} is empty; give a file with one row per line")
    return questions


def _plain_questions(config: EvalConfig) -> Iterator[Question]:
    shots = gsm8k_shots(config.shots) if config.task == "gsm8k" else NO_SHOTS
    template, stops = config.template or shots.template, _stops(config, shots)
    known = _prompts(config.not_in, _columns(config)[0])
    if config.task == "generation" and config.split is None and not Path(config.data).expanduser().exists():
        # What a teacher writes is trained on: nothing may take the test split by default.
        raise DataError(
            f"split: {config.data} is no file here; if it is a hub data set, set split=train or another one"
        )
    faults = Faults()
    for index, (place, record) in enumerate(records(config.data, config.split or "test", "data")):
        if index == config.num_rows:
            break
        try:
            text, wanted = _texts_of(config, record, place, known)
        except DataError as error:
            faults.add(str(error))
        else:
            yield Question(index, shots.prefix + template.replace("{prompt}", text), wanted, stops=stops)
    if faults:
        raise DataError(str(faults))


def _texts_of(config: EvalConfig, record: Record, place: str, known: Set[str]) -> tuple[str, tuple[str, ...]]:
    """Prompt and references of one row."""
    prompt, reference = _columns(config)
    text = " ".join(_texts(record, prompt, place))
    if text in known:
        raise DataError(
            f"{place}: this prompt is in {config.not_in} too, which was trained on; leave it out of one of them "
            "(`gkd rows RECIPE --held-out FILE` makes files that share none)"
        )
    wanted = () if reference is None else _texts(record, reference, place, "fields.reference")
    if config.task == "gsm8k" and last_number(wanted[0]) is None:
        raise DataError(f"{place}: {reference} has no number to compare with; leave the row out")
    return text, wanted


def _prompts(path: str | None, column: str) -> frozenset[str]:
    if path is None:
        return frozenset()
    return frozenset(" ".join(_texts(record, column, place)) for place, record in records(path, "train", "not_in"))


def _bbh_questions(config: EvalConfig) -> Iterator[Question]:
    prompt, reference = _columns(config)
    for subset, file in _bbh_files(config).items():
        shots = bbh_shots(config.shots, file, subset)
        stops = _stops(config, shots)
        for index, (place, record) in enumerate(records(str(file), config.split or "test", "data")):
            if index == config.num_rows:
                break
            text = " ".join(_texts(record, prompt, place))
            wanted = _texts(record, reference or "target", place, "fields.reference")
            yield Question(index, shots.prefix + shots.template.replace("{prompt}", text), wanted, subset, (), stops)


def _mmlu_questions(config: EvalConfig) -> Iterator[Question]:
    examples = _mmlu_examples(config)
    folder = Path(config.data).expanduser()
    file = str(_file(folder, "test")) if folder.is_dir() else config.data
    counts: Counter[str] = Counter()
    subjects: set[str] = set()
    for index, (place, record) in enumerate(records(file, config.split or "test", "data")):
        subject = _texts(record, "subject", place, None)[0]
        subjects.add(subject)
        wanted = config.subsets is None or subject in config.subsets
        if not wanted or counts[subject] == config.num_rows:
            continue
        counts[subject] += 1
        prefix = mmlu_prefix(examples, subject, place, config.shots.num)
        text, options, answer = mmlu_question(record, place)
        yield Question(index, prefix + text, (options[answer],), subject, options)
    _check_subsets(config, subjects)


def _mmlu_examples(config: EvalConfig) -> dict[str, list[tuple[str, Record]]]:
    """Place and record of each example, by subject."""
    examples: dict[str, list[tuple[str, Record]]] = {}
    if config.shots.num == 0:
        return examples
    folder = Path(config.data).expanduser()
    if config.shots.path is None and not folder.is_dir():
        raise DataError(
            "shots.path: examples of mmlu come from dev.jsonl of a data folder, or name them; or set shots.num=0"
        )
    key = "data" if config.shots.path is None else "shots.path"
    for place, record in records(config.shots.path or str(_file(folder, "dev")), "test", key):
        examples.setdefault(_texts(record, "subject", place, None)[0], []).append((place, record))
    return examples


_READERS = {"bbh": _bbh_questions, "mmlu": _mmlu_questions}


def _stops(config: EvalConfig, shots: Shots) -> tuple[str, ...]:
    if config.stop is None:
        return shots.stops
    return (config.stop,) if isinstance(config.stop, str) else config.stop


def _columns(config: EvalConfig) -> tuple[str, str | None]:
    prompt, reference = _COLUMNS[config.task]
    return config.fields.prompt or prompt, config.fields.reference or reference


def _bbh_files(config: EvalConfig) -> dict[str, Path]:
    path = Path(config.data).expanduser()
    if not path.is_dir():
        found = {path.name.partition(".")[0]: path}
    else:
        found = {file.name.partition(".")[0]: file for file in sorted(path.iterdir()) if file.name.endswith(_SUFFIXES)}
    _check_subsets(config, set(found))
    return {name: file for name, file in found.items() if config.subsets is None or name in config.subsets}


def _check_subsets(config: EvalConfig, known: set[str]) -> None:
    missing = sorted(set(config.subsets or ()) - known)
    if missing:
        raise DataError(f"subsets: {config.data} has no {', '.join(missing)}; it has {', '.join(sorted(known))}")


def _file(folder: Path, stem: str) -> Path:
    for suffix in _SUFFIXES:
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    raise DataError(
        f"data: {folder} has no {stem}.jsonl, {stem}.jsonl.gz or {stem}.parquet; put it there or name a file"
    )


def _texts(record: Record, column: str, place: str, key: str | None = "fields.prompt") -> tuple[str, ...]:
    """A cell of text, or of a list of texts; `a.b` is `b` of an object in `a`.

    Args:
        key: where the column is named, for messages; None: nowhere.
    """
    try:
        value = cell(record, column, place)
    except DataError as error:
        hint = "" if key is None else f"; map it with {key}"
        raise DataError(str(error).replace("; map it with data.fields", hint)) from error
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{place}: {column} must be text or a list of texts, found {str(value)[:60]!r}")
    return tuple(texts)
