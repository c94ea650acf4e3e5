"""Entailment: how probable a classifier holds it that the prompt entails the answer.

As RLEF does for summaries (Roit et al. 2023, arXiv 2306.00186) and GKD after it (arXiv 2306.13649, section 4): the
premise is the source text, the hypothesis is what the student wrote.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from gkd_dist.errors import ConfigError, EngineError, ModelError
from gkd_dist.serial import SerialThread
from gkd_dist.types import Answer

LABEL = "entailment"


class EntailmentReward:
    """Implements `interfaces.Reward` with a transformers sequence classifier, on a thread of its own.

    Args:
        folder: model and tokenizer.
        max_batch_size: pairs per forward.
        max_length: tokens of a pair, special ones included; the model's own limit counts too. The end of the premise
            is cut; a hypothesis that leaves it no room is cut as well.
        device: `cpu` or `cuda`.

    Raises:
        ModelError: no model or tokenizer there, no padding token, or see `entailment_id`.
    """

    def __init__(self, folder: Path, *, max_batch_size: int, max_length: int, device: str = "cpu") -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            model: Any = AutoModelForSequenceClassification.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"no sequence classifier could be loaded from {folder}: {error}") from error
        if self._tokenizer.pad_token_id is None:
            raise ModelError(f"the tokenizer of {folder} has no padding token; set pad_token in its configuration")
        self._label = entailment_id(folder, model.config.id2label)
        self._model = model.to(device).eval()
        self._max_batch_size = max_batch_size
        self._max_length = min(max_length, self._tokenizer.model_max_length, _positions(model.config))
        self._thread = SerialThread("reward")

    async def judge(self, answers: Sequence[Answer]) -> list[float]:
        return await self._thread.run(lambda: list(self._probabilities(answers)))

    async def close(self) -> None:
        self._thread.close()

    @torch.inference_mode()
    def _probabilities(self, answers: Sequence[Answer]) -> Iterator[float]:
        for start in range(0, len(answers), self._max_batch_size):
            pairs = [self._encoded(answer) for answer in answers[start : start + self._max_batch_size]]
            columns = {name: [pair[name] for pair in pairs] for name in pairs[0]}
            inputs = self._tokenizer.pad(columns, return_tensors="pt").to(self._model.device)
            probabilities = self._model(**inputs).logits.float().softmax(dim=-1)[:, self._label]
            if not probabilities.isfinite().all():
                raise EngineError("the entailment classifier gave probabilities that are not finite")
            yield from probabilities.tolist()

    def _encoded(self, answer: Answer) -> dict[str, list[int]]:
        """Ids of one pair; each by itself, because what is to be cut differs."""
        tokenizer = self._tokenizer
        room = self._max_length - tokenizer.num_special_tokens_to_add(pair=True)
        hypothesis = len(tokenizer(answer.completion, add_special_tokens=False)["input_ids"])
        cut = "only_first" if hypothesis < room else "longest_first"
        # Lists, because a single empty text would count as no second text at all.
        encoded = tokenizer([answer.prompt], [answer.completion], truncation=cut, max_length=self._max_length)
        return {name: column[0] for name, column in encoded.items()}


def check_classifier(folder: Path) -> None:
    """Raise ConfigError unless `folder` holds a sequence classifier with an entailment label; loads no weight."""
    try:
        config = AutoConfig.from_pretrained(folder)
        entailment_id(folder, config.id2label)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError([f"reward.model: transformers cannot read {folder}/config.json: {error}"]) from error
    except ModelError as error:
        raise ConfigError([f"reward.model: {error}"]) from error
    architectures = config.architectures or ()
    if architectures and not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise ConfigError(
            [f"reward.model: {folder} ({', '.join(architectures)}) is not a sequence classifier; choose one"]
        )


def entailment_id(folder: Path, id2label: dict[int, str]) -> int:
    """Which output is `entailment`, in any case.

    Raises:
        ModelError: none is, or several are.
    """
    found = [index for index, label in id2label.items() if str(label).lower() == LABEL]
    if len(found) != 1:
        raise ModelError(
            f"{folder} has the labels {', '.join(map(str, id2label.values()))}; exactly one must be `{LABEL}`: choose "
            "a classifier trained on natural language inference, or name its labels in id2label of its config.json"
        )
    return int(found[0])


def _positions(config: Any) -> int:
    """Longest input, tokens; without a limit where the config names none."""
    positions = getattr(config, "max_position_embeddings", None)
    if not positions:
        return 1 << 30
    # Roberta and its family count positions from the padding id on.
    return positions - config.pad_token_id - 1 if config.model_type in _OFFSET_POSITIONS else positions


_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "data2vec-text"})
