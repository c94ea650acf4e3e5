"""Golden sequences: the same few pairs for every run with one tokenizer, so that answers about them can be kept.

Real text, rendered as the run's own prompts are, shows faults where the teacher is used; random ids reach the
rest of the vocabulary. Neither depends on the run's data.
"""

import numpy as np

from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.data.rendering import Renderer
from gkd_dist.data.rows import Row
from gkd_dist.types import FinishReason, SampleId, Source, Trajectory

_ROWS = (
    Row(
        "A shop sells pens at 3 coins each. How much do 14 pens cost, and what is the change from 50 coins?",
        "14 pens cost 14 * 3 = 42 coins. The change is 50 - 42 = 8 coins.",
    ),
    Row(
        "Describe a river in two sentences.",
        "The river rises in the hills and runs slowly through the old town. In spring it carries snow to the sea.",
    ),
    Row(
        "Write a Python function that returns the larger of two numbers.",
        "def larger(a, b):\n    if a > b:\n        return a\n    return b\n",
    ),
)
_RANDOM_LENGTHS = ((1, 1), (5, 11), (9, 7))
"""(prompt, completion) tokens of the sequences of random ids; the first fits everywhere."""
_MAX_COMPLETION_TOKENS = 32


def golden_sequences(renderer: Renderer, num_ids: int, max_model_len: int) -> tuple[Trajectory, ...]:
    """Six pairs of prompt and completion, without those that `max_model_len` tokens do not hold, or for which the
    tokenizer (of a language of its own) has no ids.

    Args:
        num_ids: real vocabulary; random ids are drawn from its ordinary tokens.
    """
    rng = np.random.default_rng(0)
    ordinary = renderer.ordinary_ids
    ordinary = ordinary[ordinary < num_ids]
    renderer = renderer.without_system_prompt()  # one of any length must not push real text out of the context
    pairs = [(renderer.prompt_ids(row), renderer.completion_ids(row)) for row in _ROWS]
    sequences = [
        fixed_trajectory(_name(index), prompt, completion, _MAX_COMPLETION_TOKENS)
        for index, (prompt, completion) in enumerate(pairs)
        if completion is not None and prompt.size
    ]
    for prompt, completion in _RANDOM_LENGTHS:
        ids = rng.choice(ordinary, prompt + completion)
        name = _name(len(sequences))
        sequences.append(
            Trajectory(name, ids[:prompt], ids[prompt:], source=Source.GROUND_TRUTH, finish_reason=FinishReason.LENGTH)
        )
    return tuple(sequence for sequence in sequences if sequence.num_tokens <= max_model_len)


def _name(index: int) -> SampleId:
    return SampleId("golden", index)
