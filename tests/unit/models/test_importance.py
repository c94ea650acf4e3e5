import copy

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from gkd_dist.errors import ModelError
from gkd_dist.models.calibration import CALIBRATION, HELD_OUT, CalibrationText
from gkd_dist.models.importance import MAX_TEXT_TOKENS, RemovalMeter, encode_texts
from gkd_dist.models.layers import remove_layers

TEXTS = (CalibrationText("a b", "c d e f"), CalibrationText("long prompt here", "x"))


def log_probs_of(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    """[L, V] float64 log-softmax of one unpadded sequence."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().numpy()
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def reference_kl(teacher: PreTrainedModel, student: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> float:
    values: list[float] = []
    for text in TEXTS:
        prompt = tokenizer(text.prompt + "\n").input_ids
        ids = prompt + tokenizer(text.completion).input_ids
        p, q = log_probs_of(teacher, ids), log_probs_of(student, ids)
        per_token = (np.exp(p) * (p - q)).sum(axis=-1)
        values.extend(per_token[len(prompt) - 1 : -1])
    assert len(values) == sum(len(text.completion) for text in TEXTS)
    return float(np.mean(values))


def test_meter_equals_a_float64_reference_over_unpadded_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    meter = RemovalMeter(model, encode_texts(tokenizer, TEXTS))
    student = copy.deepcopy(model)
    remove_layers(student, (1, 3))
    expected = reference_kl(model, student, tokenizer)
    assert expected > 0.01
    # float32 logits of order 10: log-probs good to about 1e-5
    assert meter.rebase((1, 3)) == pytest.approx(expected, abs=1e-4)
    assert meter.of(student) == pytest.approx(expected, abs=1e-4)


def test_one_more_removal_costs_the_same_from_any_base(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    meter = RemovalMeter(model, encode_texts(tokenizer, TEXTS))
    expected = meter.rebase((0, 2, 4))
    for last in (0, 2, 4):
        meter.rebase({0, 2, 4} - {last})
        assert meter.also_without(last) == pytest.approx(expected, abs=1e-6)


def test_dropping_nothing_costs_nothing(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    meter = RemovalMeter(model, encode_texts(tokenizer, TEXTS))
    assert meter.rebase(()) == pytest.approx(0, abs=1e-5)
    assert meter.of(model) == pytest.approx(0, abs=1e-5)


def test_mask_marks_the_positions_that_predict_completion_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = encode_texts(tokenizer, TEXTS)
    # "a b\n" has 4 tokens, "c d e f" 7: positions 3 to 9 predict them; the last token predicts nothing known.
    assert encoded.scored_mask[0].nonzero().flatten().tolist() == list(range(3, 10))
    # "long prompt here\n" has 17 tokens.
    assert encoded.scored_mask[1].nonzero().flatten().tolist() == [16]


def test_chat_template_is_used_where_there_is_one(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = (
        "{% for m in messages %}<{{ m['content'] }}>{% endfor %}{% if add_generation_prompt %}!{% endif %}"
    )
    encoded = encode_texts(chat, TEXTS[:1])
    assert chat.decode(encoded.input_ids[0]) == "<a b>!c d e f"
    assert int(encoded.scored_mask.sum()) == 7


def test_long_texts_are_cut_and_texts_without_completion_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    long = CalibrationText("p", "c" * 1000)
    assert encode_texts(tokenizer, (long,)).input_ids.shape == (1, MAX_TEXT_TOKENS)
    for texts in ((), (CalibrationText("prompt", ""),), (CalibrationText("p" * 1000, "completion"),)):
        with pytest.raises(ModelError, match="no completion tokens"):
            encode_texts(tokenizer, texts)


def test_built_in_texts_are_distinct() -> None:
    assert not {text.prompt for text in CALIBRATION} & {text.prompt for text in HELD_OUT}
