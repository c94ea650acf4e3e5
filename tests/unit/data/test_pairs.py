import numpy as np
import pytest

from gkd_dist.data.pairs import fixed_trajectory
from gkd_dist.types import FinishReason, SampleId, Source

PROMPT = np.array([5, 6], dtype=np.int32)
COMPLETION = np.array([7, 8, 9, 1], dtype=np.int32)  # 1 is the stop token


@pytest.mark.parametrize(
    ("max_new_tokens", "kept", "reason"),
    [
        (5, [7, 8, 9, 1], FinishReason.STOP),
        (4, [7, 8, 9, 1], FinishReason.STOP),
        (3, [7, 8, 9], FinishReason.LENGTH),
        (1, [7], FinishReason.LENGTH),
    ],
)
def test_pair_is_cut_as_a_sample_would_be(max_new_tokens, kept, reason):
    pair = fixed_trajectory(SampleId("r", 3), PROMPT, COMPLETION, max_new_tokens)
    assert (pair.completion_ids.tolist(), pair.finish_reason) == (kept, reason)
    assert (pair.sample_id, pair.source, pair.prompt_ids.tolist()) == (SampleId("r", 3), Source.GROUND_TRUTH, [5, 6])
    assert pair.versions is None and pair.behaviour_log_probs is None


def test_no_tokens_at_all_is_refused():
    with pytest.raises(ValueError, match="max_new_tokens"):
        fixed_trajectory(SampleId("r", 3), PROMPT, COMPLETION, 0)
    with pytest.raises(ValueError, match="completion token"):
        fixed_trajectory(SampleId("r", 3), PROMPT, COMPLETION[:0], 4)
