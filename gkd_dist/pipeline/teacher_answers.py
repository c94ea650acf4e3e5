"""What the teachers themselves answer to the held-out prompts that are shown, to be read beside the student's."""

import logging
from collections.abc import Sequence

from gkd_dist.errors import plain
from gkd_dist.fleet import Fleet
from gkd_dist.pipeline.evaluation import HeldOut
from gkd_dist.types import Trajectory

logger = logging.getLogger(__name__)

TeacherAnswers = dict[str, dict[int, list[int]]]
"""Name of the teacher -> index of the held-out prompt -> token ids of its greedy completion."""


async def teacher_answers(fleet: Fleet, held_out: HeldOut, drafts: Sequence[Trajectory]) -> TeacherAnswers:
    """Of every teacher that scores the prompt. A teacher that fails at it is left out: a run does not end for that.

    Args:
        drafts: the student's answers, from which the teacher's are found sooner.
    """
    found: TeacherAnswers = {}
    most = min(held_out.max_teacher_tokens, held_out.sampling.max_new_tokens)
    for name, replicas in fleet.teachers.items():
        own = [index for index, draft in enumerate(drafts) if _is_asked(name, held_out, draft)]
        if not own or not most:
            continue
        asked = [drafts[index] for index in own]
        try:
            answers = await replicas.call(
                lambda teacher, asked=asked: teacher.complete(asked, most, held_out.sampling.stop_token_ids),  # type: ignore[misc]
                "complete what is shown",
            )
        except Exception as error:
            logger.warning("no answers of %s are shown: %s", name, plain(error))
            continue
        found[name] = {
            draft.sample_id.prompt_index: answer for draft, answer in zip(asked, answers, strict=True) if answer
        }
    return found


def _is_asked(name: str, held_out: HeldOut, draft: Trajectory) -> bool:
    return held_out.teachers_of is None or name in held_out.teachers_of(draft.sample_id)
