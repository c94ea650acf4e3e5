"""Reading the rows of a run's data set (floor F2)."""

import re
from collections import Counter
from dataclasses import replace

from gkd_dist.config.data import DataConfig, DataFields
from gkd_dist.data.faults import Faults
from gkd_dist.data.formats import Columns, detect_columns
from gkd_dist.data.rows import Row, Rows
from gkd_dist.data.sources import records
from gkd_dist.data.word_problems import word_problems
from gkd_dist.errors import DataError

NUM_EMBEDDED = 2_000
"""Training rows of the embedded data set."""
EMBEDDED_SEED = 0
"""Never the run's seed: runs that differ in their seed alone are evaluated on the same rows."""


def read_rows(config: DataConfig) -> Rows:
    """All usable rows of the configured data set, in the order of the source.

    Args:
        config: `path` None means the embedded word problems: `num_train` (or 2,000) rows plus the held-out ones.

    Raises:
        DataError: no such file or data set, a line that cannot be read, a missing column, a wrong type (each with
            file and line), or no usable row.
    """
    rows = _embedded(config) if config.path is None else _read(config, config.path)
    if config.strip is not None:
        rows = _stripped(rows, re.compile(config.strip))
    return rows if config.prompt_template is None else _in_template(rows, config.prompt_template)


def check_first_row(config: DataConfig) -> None:
    """Raise DataError where `read_rows` would, as far as the first row of the source shows it."""
    if config.path is None:
        return
    for place, record in records(config.path, config.split):
        detect_columns(config.fields, record, place).rows(record, place)
        return
    raise DataError(f"data.path: {config.path} is empty; give a file with one row per line")


def _read(config: DataConfig, path: str) -> Rows:
    columns: Columns | None = None
    rows: list[Row] = []
    skipped: Counter[str] = Counter()
    faults = Faults()
    for place, record in records(path, config.split):
        columns = columns or detect_columns(config.fields, record, place)
        try:
            own, left_out = columns.rows(record, place)
        except DataError as error:
            faults.add(str(error))
        else:
            rows += own
            skipped += left_out
    if faults:
        raise DataError(str(faults))
    if columns is None:
        raise DataError(f"data.path: {path} is empty; give a file with one row per line")
    if not rows:
        counts = ", ".join(f"{number} with {reason}" for reason, number in sorted(skipped.items()))
        raise DataError(
            f"data.path: none of the {skipped.total()} rows of {path} can be used: {counts}; "
            f"they were read as {columns.format}, check the columns or map them with data.fields"
        )
    return Rows(tuple(rows), columns.format, path, dict(skipped))


def _stripped(rows: Rows, unwanted: re.Pattern[str]) -> Rows:
    """Completions without what is unwanted; a row of which nothing is left goes too."""
    reason = "nothing left of the completion"
    kept = [
        row if row.completion is None else replace(row, completion=unwanted.sub("", row.completion))
        for row in rows.rows
    ]
    kept = [row for row in kept if row.completion is None or row.completion.strip()]
    num_empty = len(rows) - len(kept)
    if not kept:
        raise DataError(f"data.strip: nothing is left of any completion of {rows.source}; change the expression")
    return replace(
        rows, rows=tuple(kept), num_skipped={**rows.num_skipped, **({reason: num_empty} if num_empty else {})}
    )


def _in_template(rows: Rows, template: str) -> Rows:
    """Each prompt in place of {prompt}.

    Raises:
        DataError: prompts that are conversations.
    """
    prompts = [row.prompt for row in rows.rows if isinstance(row.prompt, str)]
    if len(prompts) < len(rows):
        raise DataError(
            f"data.prompt_template is put around text, but prompts of {rows.source} are lists of messages; remove it, "
            "or use data.system_prompt"
        )
    filled = (
        replace(row, prompt=template.replace("{prompt}", text)) for row, text in zip(rows.rows, prompts, strict=True)
    )
    return replace(rows, rows=tuple(filled))


def _embedded(config: DataConfig) -> Rows:
    if config.fields != DataFields():
        raise DataError("data.fields maps the columns of a file, but data.path is not set; set it or remove the fields")
    problems = word_problems((config.num_train or NUM_EMBEDDED) + config.num_held_out, EMBEDDED_SEED)
    return Rows(tuple(problems), "prompt+completion", "the embedded word problems")
