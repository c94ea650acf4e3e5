"""Where the transformers sampler runs: where its seat, or the evaluation, says."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from gkd_dist.build.evaluation import EvalEngines
from gkd_dist.build.sampler import make_sampler
from gkd_dist.config.evaluation import DecodingConfig, EvalConfig
from gkd_dist.config.load import load_run_config
from gkd_dist.engines.families import EncoderDecoder
from gkd_dist.engines.reading import Reader
from gkd_dist.samplers import hf_sampler
from gkd_dist.samplers.hf_sampler import HfSampler
from gkd_dist.types import SamplingParams
from tests import tiny


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Devices that samplers were asked for."""
    found: list[str] = []

    class Recorded:
        def __init__(self, *_: object, device: str = "none", **__: object) -> None:
            found.append(device)

    monkeypatch.setattr(hf_sampler, "HfSampler", Recorded)
    return found


def test_models_and_prompts_are_on_the_device(t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without values: what is put on it can be seen, not computed."""
    seen = []

    def reader(_: object, model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Reader:
        seen.extend(each.device.type for each in (model, input_ids, attention_mask))
        raise InterruptedError

    monkeypatch.setattr(EncoderDecoder, "reader", reader)
    sampler = HfSampler(t5, dtype="float32", pad_token_id=tiny.PAD, num_ids=None, device="meta")
    with pytest.raises(InterruptedError):
        asyncio.run(sampler.sample(tiny.prompts([4, 2]), SamplingParams(3)))
    assert seen == ["meta"] * 3


@pytest.mark.parametrize(("num_gpus", "device"), [(0, "cpu"), (1, "cuda"), (0.25, "cuda")])
def test_a_sampler_of_the_ring_takes_the_gpu_of_its_seat(num_gpus: float, device: str, chosen: list[str]) -> None:
    config = load_run_config("tiny", ["student.model=m", "teacher.model=m", f"cluster.num_gpus_per_sampler={num_gpus}"])
    blueprint = SimpleNamespace(config=config, student="", teachers={}, pad_token_id=0, num_ids=9)
    make_sampler(blueprint)  # type: ignore[arg-type]
    assert chosen == [device]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_evaluation_draws_where_it_is_told_to(device: str, chosen: list[str]) -> None:
    config = EvalConfig(model="m", data="d", device=device, decoding=DecodingConfig(temperature=1))
    renderer = SimpleNamespace(pad_token_id=0, num_ids=9)
    EvalEngines(config, Path(), None, renderer, 9, 64, ()).make_writer()  # type: ignore[arg-type]
    assert chosen == [device]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("save", [tiny.save_causal, tiny.save_t5])
def test_a_gpu_draws_what_a_cpu_draws(save: Any, tmp_path: Path) -> None:
    """The noise is the CPU's on both; 1e-3 nats for the order of sums."""
    model = save(tmp_path)
    params = SamplingParams(8, seed=4, teacher_mix=0.2)
    cpu, gpu = (
        asyncio.run(
            HfSampler(model, dtype="float32", pad_token_id=tiny.PAD, num_ids=None, teacher=model, device=device).sample(
                tiny.prompts([4, 7, 2]), params
            )
        )
        for device in ("cpu", "cuda")
    )
    for own, other in zip(cpu, gpu, strict=True):
        assert own.completion_ids.tolist() == other.completion_ids.tolist()
        np.testing.assert_allclose(own.behaviour_log_probs, other.behaviour_log_probs, atol=1e-3)
