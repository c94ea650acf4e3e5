"""Greedy decoding and beam search against transformers alone, for both families of models."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from gkd_dist.engines.forcing import NextId
from gkd_dist.evaluation.search import SearchingWriter
from gkd_dist.evaluation.writers import Completion, write_all
from gkd_dist.types import Prompt, SamplingParams
from tests.tiny import PAD, STOP, VOCABULARY, poison_generation_config, prompts, save_causal, save_t5

PARAMS = SamplingParams(max_new_tokens=6, temperature=0.0, stop_token_ids=(STOP,))


def forced(generated: Sequence[int]) -> int | None:
    """Stands in for the calculator: id 7 comes second, and id 9 behind every 7."""
    return 9 if generated and generated[-1] == 7 else 7 if len(generated) == 1 else None


@pytest.fixture(scope="module", params=["causal", "t5"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    (save_causal if request.param == "causal" else save_t5)(path, seed=2)
    poison_generation_config(path)
    return path


def write(
    folder: Path, asked: list[Prompt], *, next_id: NextId | None = None, num_ids: int = VOCABULARY, **search: Any
) -> list[Completion]:
    async def run() -> list[Completion]:
        writer = SearchingWriter(
            folder,
            dtype="float32",
            pad_token_id=PAD,
            num_ids=num_ids,
            next_id=next_id,
            **{"num_beams": 1, "length_penalty": 1.0, **search},
        )
        try:
            return await write_all(writer, asked, PARAMS, batch_size=3, progress=lambda _: None)
        finally:
            await writer.close()

    return asyncio.run(run())


@torch.no_grad()
def step_log_probs(folder: Path, prompt: Prompt, generated: Sequence[int]) -> torch.Tensor:
    """[V] log-probs of the next id, one forward of one unpadded sequence."""
    ids = torch.from_numpy(prompt.token_ids.astype(np.int64))[None]
    if "t5" in folder.name:
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
        logits = model(input_ids=ids, decoder_input_ids=torch.tensor([[PAD, *generated]])).logits
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        logits = model(input_ids=torch.cat([ids, torch.tensor([list(generated)], dtype=torch.int64)], dim=1)).logits
    return torch.log_softmax(logits[0, -1], dim=-1)


def reference_beam(folder: Path, prompt: Prompt, num_beams: int, length_penalty: float) -> list[int]:
    """Beam search written from its definition: 2 * num_beams candidates a step, finished ones set aside."""
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for _ in range(PARAMS.max_new_tokens):
        candidates = []
        for score, ids in beams:
            log_probs = step_log_probs(folder, prompt, ids)
            candidates += [(score + float(own), [*ids, number]) for number, own in enumerate(log_probs)]
        candidates.sort(key=lambda each: -each[0])
        beams = []
        for rank, (score, ids) in enumerate(candidates[: 2 * num_beams]):
            if ids[-1] == STOP:
                if rank < num_beams:
                    finished.append((score / len(ids) ** length_penalty, ids))
            elif len(beams) < num_beams:
                beams.append((score, ids))
        finished = sorted(finished, key=lambda each: -each[0])[:num_beams]
    finished += [(score / len(ids) ** length_penalty, ids) for score, ids in beams]
    return max(finished, key=lambda each: each[0])[1]


def test_greedy_takes_the_most_probable_id(folder: Path) -> None:
    asked = prompts([5, 3, 9, 4])
    for prompt, completion in zip(asked, write(folder, asked), strict=True):
        ids: list[int] = []
        while len(ids) < PARAMS.max_new_tokens and (not ids or ids[-1] != STOP):
            ids.append(int(step_log_probs(folder, prompt, ids).argmax()))
        assert (completion.token_ids.tolist(), completion.is_truncated) == (ids, ids[-1] != STOP)


@pytest.mark.parametrize("length_penalty", [0.6, 1.5])
def test_beams_are_those_of_a_plain_beam_search(folder: Path, length_penalty: float) -> None:
    asked = prompts([4, 7], seed=3)
    written = write(folder, asked, num_beams=3, length_penalty=length_penalty)
    wanted = [reference_beam(folder, prompt, 3, length_penalty) for prompt in asked]
    assert [each.token_ids.tolist() for each in written] == wanted


def test_ids_beyond_the_tokenizer_are_never_chosen(folder: Path) -> None:
    asked = prompts([5, 3])
    free = {int(number) for each in write(folder, asked) for number in each.token_ids}
    limit = max(free)
    assert all(each.token_ids.max() < limit for each in write(folder, asked, num_ids=limit))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_what_is_inserted_replaces_the_choice_in_every_beam(folder: Path, num_beams: int) -> None:
    for each in write(folder, prompts([5, 3]), next_id=forced, num_beams=num_beams):
        assert each.token_ids[1:3].tolist() == [7, 9] or each.token_ids[0] in (STOP, 7)


def test_a_row_that_is_over_ends_alone(folder: Path) -> None:
    asked = prompts([5, 3, 9, 4])
    whole = [each.token_ids.tolist() for each in write(folder, asked)]
    wanted = next(ids[1] for ids in whole if len(ids) > 2)
    for ids, cut in zip(whole, write(folder, asked, is_over=lambda own: wanted in own), strict=True):
        place = ids.index(wanted) + 1 if wanted in ids else len(ids)
        assert cut.token_ids.tolist() == [*ids[:place], *[PAD] * (len(cut.token_ids) - place)]


def test_a_search_draws_nothing(folder: Path) -> None:
    async def run() -> None:
        writer = SearchingWriter(
            folder, dtype="float32", pad_token_id=PAD, num_ids=VOCABULARY, num_beams=1, length_penalty=1
        )
        try:
            await writer.write(prompts([3]), SamplingParams(max_new_tokens=2, temperature=0.5))
        finally:
            await writer.close()

    with pytest.raises(ValueError, match="draws nothing"):
        asyncio.run(run())
