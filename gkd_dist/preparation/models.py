"""The models that a configuration names (floor F5)."""

from typing import TYPE_CHECKING

from gkd_dist.config.run import RunConfig
from gkd_dist.data.rows import Rows

if TYPE_CHECKING:
    from gkd_dist.models.scratch import ScratchModel


def references(config: RunConfig, student: str | None) -> dict[str, str]:
    """References of models that exist, by the section that names them: `teacher` or `teachers.NAME`, `student`,
    perhaps `reward`."""
    models = {config.key_of(name): teacher.model for name, teacher in config.named_teachers.items()}
    if student is not None or config.student.model_type is None:
        models["student"] = student or config.student.model
    if config.reward is not None and config.reward.model is not None:
        models["reward"] = config.reward.model
    return models


def scratch_student(config: RunConfig, rows: Rows) -> "ScratchModel | None":
    """The student that is to be made, on the text of the training rows; None where it is there already."""
    model_type, scratch = config.student.model_type, config.student.scratch
    if model_type is None or scratch is None:
        return None
    from gkd_dist.models.folders import default_cache_dir
    from gkd_dist.models.scratch import ScratchModel

    first = config.data.num_held_out
    training = rows.rows[first : None if config.data.num_train is None else first + config.data.num_train]
    texts = [text for row in training for text in row.texts]
    return ScratchModel(model_type, scratch, texts, config.seed, default_cache_dir())


def needs_weights(config: RunConfig, part: str) -> bool:
    """A teacher behind a server is here for its tokenizer alone."""
    elsewhere = {config.key_of(name) for name, each in config.named_teachers.items() if each.engine == "server"}
    return part not in elsewhere
