"""The entailment classifier: its probability, whatever the batches, and what is cut when texts are long."""

import asyncio
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from gkd_dist.errors import ConfigError, ModelError
from gkd_dist.rewards.entailment import EntailmentReward, check_classifier
from gkd_dist.types import Answer
from tests import tiny
from tests.classifier import save_classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("classifier"))


def judge(folder: Path, answers: list[Answer], **settings: int) -> list[float]:
    async def run() -> list[float]:
        reward = EntailmentReward(folder, **({"max_batch_size": 4, "max_length": 512} | settings))
        try:
            return await reward.judge(answers)
        finally:
            await reward.close()

    return asyncio.run(run())


def probability(folder: Path, premise: list[int], hypothesis: list[int]) -> float:
    """The second label's share, from the ids of one pair alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = [1, *premise, 2, *hypothesis, 2]
    segments = [0] * (len(premise) + 2) + [1] * (len(hypothesis) + 1)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([segments])).logits
    return float(logits.softmax(-1)[0, 1])


def text(ids: list[int]) -> str:
    return " ".join(f"w{number}" for number in ids)


PAIRS = [([5, 6, 7, 8], [9]), ([10], [11, 12, 13, 14, 15]), ([20, 21], []), ([30] * 9, [31, 32]), ([40, 41], [42])]


def test_the_reward_is_the_probability_of_entailment_whatever_the_batches(folder: Path) -> None:
    """To 1e-5: padding changes the order of float32 sums."""
    answers = [Answer(text(premise), text(hypothesis), None) for premise, hypothesis in PAIRS]
    expected = [probability(folder, *pair) for pair in PAIRS]
    assert len({round(value, 3) for value in expected}) == len(PAIRS)
    for max_batch_size in (1, 2, 16):
        assert judge(folder, answers, max_batch_size=max_batch_size) == pytest.approx(expected, abs=1e-5)


def test_the_end_of_a_long_premise_is_cut(folder: Path) -> None:
    premise, hypothesis = list(range(4, 80)), [90, 91, 92]
    for max_length in (512, 20):  # the model itself has 40 positions
        kept = min(max_length, 40) - 3 - len(hypothesis)
        (found,) = judge(folder, [Answer(text(premise), text(hypothesis), None)], max_length=max_length)
        assert found == pytest.approx(probability(folder, premise[:kept], hypothesis), abs=1e-5)


def test_a_hypothesis_longer_than_the_model_is_cut_as_well(folder: Path) -> None:
    (found,) = judge(folder, [Answer(text([4, 5, 6]), text([7] * 60), None)])
    assert 0 < found < 1


@pytest.mark.parametrize("labels", [("LABEL_0", "LABEL_1"), ("entailment", "ENTAILMENT"), ("not_entailment", "other")])
def test_a_classifier_needs_exactly_one_entailment_label(tmp_path: Path, labels: tuple[str, ...]) -> None:
    folder = save_classifier(tmp_path, labels)
    with pytest.raises(ConfigError, match=f"^reward.model: .*{labels[1]}; exactly one must be `entailment`"):
        check_classifier(folder)
    with pytest.raises(ModelError, match="exactly one must be"):
        EntailmentReward(folder, max_batch_size=1, max_length=32)


def test_a_language_model_is_no_classifier(tmp_path: Path) -> None:
    folder = tiny.save_causal(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "entailment", "1": "other"}}))
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM.* is not a sequence classifier"):
        check_classifier(folder)


def test_a_good_classifier_passes_the_check(folder: Path) -> None:
    check_classifier(folder)


def test_a_tokenizer_without_padding_is_refused(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="no padding token"):
        EntailmentReward(folder, max_batch_size=1, max_length=32)
