"""From an engine's prompt log-probs to targets: checked, finite, at most 0."""

import numpy as np
import pytest

from gkd_dist.errors import ConfigError, EngineError
from gkd_dist.targets import SampledTargets, TopKTargets
from gkd_dist.teachers.prompt_log_probs import PromptLogProbs, SampledScoring, TopKScoring


def found(log_probs: list[list[float]], chosen: list[float], first_id: int = 0) -> PromptLogProbs:
    array = np.array(log_probs, np.float32).reshape(len(chosen), -1)
    ids = np.broadcast_to(np.arange(first_id, first_id + array.shape[1], dtype=np.int32), array.shape)
    return PromptLogProbs(np.array(chosen, np.float32), ids.copy(), array)


def test_each_transport_ships_its_own_part() -> None:
    answer = found([[-0.5, -1.5], [-0.1, -3.0]], [-1.5, -7.0])
    top = TopKScoring(2, num_ids=5).targets(answer)
    assert isinstance(top, TopKTargets)
    np.testing.assert_array_equal(top.log_probs, answer.log_probs)
    np.testing.assert_array_equal(top.token_ids, [[0, 1], [0, 1]])
    sampled = SampledScoring().targets(answer)
    assert isinstance(sampled, SampledTargets)
    np.testing.assert_array_equal(sampled.log_probs, np.array([-1.5, -7.0], np.float32))


def test_rounding_and_zero_probability_stay_within_what_a_message_may_carry() -> None:
    top = TopKScoring(2, num_ids=5).targets(found([[1e-6, -np.inf]], [-np.inf]))
    assert top.log_probs.tolist() == [[0.0, -9999.0]]
    assert SampledScoring().targets(found([[]], [1e-6])).log_probs.tolist() == [0.0]


@pytest.mark.parametrize("log_probs", [[3.0, 1.0], [-0.1, -0.2], [float("nan"), -1.0]])
def test_logits_are_not_taken_for_log_probs(log_probs: list[float]) -> None:
    for scoring in (TopKScoring(2, num_ids=5), SampledScoring()):
        with pytest.raises(EngineError, match=r"no log-probs.*logprobs_mode"):
            scoring.targets(found([log_probs], [-1.0]))


def test_a_token_more_certain_than_certain_is_refused() -> None:
    with pytest.raises(EngineError, match="no log-probs"):
        SampledScoring().targets(found([[]], [0.5]))


def test_ids_that_no_tokenizer_knows_are_refused() -> None:
    with pytest.raises(EngineError, match=r"id 5 probable.*it knows 5.*engine=vllm"):
        TopKScoring(2, num_ids=5).targets(found([[-1.0, -1.0]], [-1.0], first_id=4))


def test_more_candidates_than_ids_are_a_configuration_error() -> None:
    TopKScoring(5, num_ids=5)
    with pytest.raises(ConfigError, match=r"teacher.top_k: 6 is more than the 5 ids.*at most 5"):
        TopKScoring(6, num_ids=5)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        PromptLogProbs(np.zeros(2, np.float32), np.zeros((1, 2), np.int32), np.zeros((1, 2), np.float32))
