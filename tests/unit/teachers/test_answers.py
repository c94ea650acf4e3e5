"""Reading a vLLM server's answer: the candidates in order, the token itself, and nothing that was not asked for."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.errors import EngineError
from gkd_dist.teachers.answers import read_answer

NUM_IDS = 12


def row_of(log_probs: np.ndarray, token_id: int, num_candidates: int) -> dict[str, Any]:
    """One position as vLLM writes it: the token itself first, then the candidates, no id twice."""
    order = np.argsort(-log_probs, kind="stable")
    ranked = [(int(order[rank - 1]), rank) for rank in range(1, num_candidates + 1)]
    own = (token_id, int((log_probs >= log_probs[token_id]).sum()))
    return {
        str(index): {"logprob": float(log_probs[index]), "rank": rank, "decoded_token": f'"{index}":{{'}
        for index, rank in dict([own, *ranked]).items()
    }


def body(rows: list[Any], **more: Any) -> bytes:
    return json.dumps({"id": "x", "choices": [{"index": 0, "text": "a", "prompt_logprobs": rows, **more}]}).encode()


def random_log_probs(seed: int, num_tokens: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(num_tokens, NUM_IDS))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@given(seed=st.integers(0, 1000), length=st.integers(2, 6), num_candidates=st.integers(0, NUM_IDS), data=st.data())
def test_the_completions_rows_come_back_sorted(seed: int, length: int, num_candidates: int, data: Any) -> None:
    log_probs = random_log_probs(seed, length)
    tokens = np.array(data.draw(st.lists(st.integers(0, NUM_IDS - 1), min_size=length, max_size=length)), np.int32)
    num_completion = data.draw(st.integers(1, length - 1))
    rows = [None, *(row_of(log_probs[t], int(tokens[t]), num_candidates) for t in range(1, length))]
    found = read_answer(body(rows), tokens, num_completion_tokens=num_completion, num_candidates=num_candidates)
    kept = log_probs[-num_completion:].astype(np.float32)
    np.testing.assert_array_equal(found.chosen, kept[np.arange(num_completion), tokens[-num_completion:]])
    expected = np.argsort(-log_probs[-num_completion:], axis=1, kind="stable")[:, :num_candidates]
    np.testing.assert_array_equal(found.token_ids, expected)
    np.testing.assert_array_equal(found.log_probs, np.take_along_axis(kept, expected, axis=1))


def test_a_token_that_ties_with_the_last_candidate_is_not_one_of_them() -> None:
    """Ranks of equal log-probs: vLLM counts all that are as probable, so the token's own is above K."""
    log_probs = np.log(np.array([0.4, 0.3, 0.3]))
    found = read_answer(
        body([None, row_of(log_probs, 2, 2)]), np.array([0, 2], np.int32), num_completion_tokens=1, num_candidates=2
    )
    assert found.token_ids.tolist() == [[0, 1]]
    assert found.chosen[0] == np.float32(np.log(0.3))


TOKENS = np.array([3, 4], np.int32)
GOOD = row_of(random_log_probs(0, 1)[0], 4, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "did not answer as vLLM does"),
        (b'{"choices": []}', "did not answer as vLLM does"),
        (b'{"choices": [{"text": "a"}]}', "sent 0 prompt_logprobs for 2 tokens"),
        (body([None, GOOD, GOOD]), "sent 3 prompt_logprobs for 2 tokens"),
        (body([None, {"4": {"logprob": "x", "rank": 1}}]), "did not answer as vLLM does"),
        (body([None, GOOD], prompt_token_ids=[1, 3, 4]), "scored other tokens"),
        (body([None, {key: value for key, value in GOOD.items() if key != "4"}]), "left out the log-prob of"),
        (body([None, None]), "left out the log-prob of"),
        (body([None, {"4": {"logprob": -1.0, "rank": 1}}]), "did not send 2 candidates"),
    ],
)
def test_what_is_no_such_answer_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        read_answer(content, TOKENS, num_completion_tokens=1, num_candidates=2)
