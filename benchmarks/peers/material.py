"""What both sides are given: models as folders, and rows in a fixed order, rendered once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from work import Row

from gkd_dist.config.data import DataConfig, DataFields
from gkd_dist.data.readers import read_rows
from gkd_dist.data.rendering import Renderer
from gkd_dist.models.folders import default_cache_dir
from gkd_dist.models.packaged import materialise
from gkd_dist.models.pruning import pruned_student


def teacher_and_student(reference: str, num_layers: int) -> tuple[Path, Path]:
    """The model, and what `gkd prune` makes of it; both from the model cache, where they are kept."""
    teacher = materialise(reference, default_cache_dir())
    return teacher, pruned_student(teacher, num_layers, None, default_cache_dir())


def rendered_rows(model: Path, path: str | None, prompt: str | None, completion: str | None, number: int) -> list[Row]:
    """The first `number` rows of a file, or of the embedded word problems.

    Raises:
        SystemExit: there are fewer, or a row has no completion.
    """
    fields = DataFields(prompt=prompt, completion=completion)
    config = DataConfig(path=path, fields=fields) if path else DataConfig(num_train=number)
    found = read_rows(config).rows[:number]
    if len(found) < number:
        raise SystemExit(f"{path} has {len(found)} usable rows, but {number} are needed; ask for fewer steps")
    renderer = Renderer(str(model))
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    rows = []
    for row in found:
        prompt_ids, completion_ids = renderer.prompt_ids(row), renderer.completion_ids(row)
        if completion_ids is None or not isinstance(row.prompt, str):
            raise SystemExit(f"{path}: rows need a prompt and a completion that are text; name the columns")
        rows.append(
            Row(
                prompt=row.prompt,
                completion=row.completion or "",
                rendered=tokenizer.decode(prompt_ids, clean_up_tokenization_spaces=False),
                prompt_ids=prompt_ids.tolist(),
                completion_ids=completion_ids.tolist(),
            )
        )
    return rows


def check_that_none_is_dropped(rows: Sequence[Row]) -> None:
    """End this process where gkd_dist would leave out a row that the others train on: one whose prompt is that of the
    first, which it sets aside."""
    held_out, *trained = rows
    same = [number for number, row in enumerate(trained, 2) if row.prompt_ids == held_out.prompt_ids]
    if same:
        raise SystemExit(
            f"of the rows to train on, number {same[0]} has the prompt of the first, which gkd_dist sets aside: it "
            "would leave that row out, and all others would move; remove it from the data"
        )
