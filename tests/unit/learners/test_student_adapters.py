"""LoRA students: what is trained, what samplers get, and what is saved."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from gkd_dist.config.learner import LearnerConfig
from gkd_dist.config.lora import LoraConfig
from gkd_dist.divergences import ForwardKl
from gkd_dist.errors import ModelError
from gkd_dist.learners.adapters import MergedWeight
from gkd_dist.learners.checkpoint import save_student
from gkd_dist.learners.learner import GkdLearner
from gkd_dist.learners.load import load_student
from gkd_dist.learners.model import StudentModel
from gkd_dist.learners.objective import Distillation
from gkd_dist.learners.step import LossSettings
from gkd_dist.learners.targets import TargetRules, TeacherView
from gkd_dist.samplers.hf_sampler import HfSampler
from gkd_dist.targets import FullTargets
from gkd_dist.types import SamplingParams, TrainBatch, WeightPublication
from gkd_dist.weights.adapters import adapter_tensors
from gkd_dist.weights.publisher import WeightPublisher
from gkd_dist.weights.tensors import read_tensors
from tests import tiny

IDS = torch.arange(3, 20)[None]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_causal(tmp_path_factory.mktemp("student"), seed=1, tie_word_embeddings=request.param)


def load(path: Path, **lora: object) -> StudentModel:
    """A student whose adapters have moved."""
    student = load_student(path, gradient_checkpointing=False, lora=LoraConfig(**{"r": 4} | lora))
    generator = torch.Generator().manual_seed(0)
    for tensor in adapter_tensors(student.model).values():
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
    return student


def plain(path: Path) -> torch.nn.Module:
    """The model of a folder with the student's attention, so that equal weights give equal bits."""
    return AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(IDS).logits


def publish(student: StudentModel, version: int = 1) -> WeightPublication:
    return WeightPublisher("e", 1 << 16, "float32").publish(student.published(), version)


def train(path: Path, **lora: object) -> tuple[StudentModel, GkdLearner]:
    """One step with a large learning rate."""
    student = load_student(path, gradient_checkpointing=False, lora=LoraConfig(r=4, **lora))
    trajectories = tiny.trajectories([(4, 6), (3, 5)])
    rows = [torch.log_softmax(torch.randn(item.num_completion_tokens, tiny.VOCABULARY), -1) for item in trajectories]
    scored = tiny.scored(trajectories, [FullTargets(row.numpy()) for row in rows])
    settings = LossSettings(
        objective=Distillation(ForwardKl(), {"teacher": TeacherView(None, 1.0)}, TargetRules(num_ids=tiny.VOCABULARY)),
        reduction="sequence_mean",
        bf16=False,
        max_micro_batch_tokens=64,
        pad_token_id=tiny.PAD,
        num_ids=tiny.VOCABULARY,
    )
    learner = GkdLearner(
        student,
        source=path,
        config=LearnerConfig(bf16=False, learning_rate=0.1),
        settings=settings,
        publisher=WeightPublisher("e", 1 << 16, "float32"),
    )
    report = asyncio.run(learner.train(TrainBatch(0, tuple(scored), 2, 11)))
    assert report.num_skipped == 0
    return student, learner


def test_the_untrained_adapter_changes_nothing_and_follows_the_seed(path: Path) -> None:
    first, again, other = (
        load_student(path, gradient_checkpointing=False, lora=LoraConfig(r=4), seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(logits(first.model), logits(plain(path)))
    values = [list(adapter_tensors(student.model).values()) for student in (first, again, other)]
    assert all(torch.equal(*pair) for pair in zip(values[0], values[1], strict=True))
    assert any(not torch.equal(*pair) for pair in zip(values[0], values[2], strict=True))


def test_a_step_moves_the_adapters_alone(path: Path) -> None:
    student, learner = train(path)
    try:
        before = dict(plain(path).named_parameters())
        for name, tensor in student.model.named_parameters():
            if ".lora_" in name:
                assert tensor.requires_grad
            else:
                assert torch.equal(tensor, before[name.replace(".base_layer", "")])
        adapters = adapter_tensors(student.model)
        assert len(adapters) == 2 * 7 * 2  # A and B of seven projections in two layers
        assert all(tensor.abs().max() > 0 for tensor in adapters.values())
        held = {id(tensor) for group in learner._optimizer.param_groups for tensor in group["params"]}
        assert held == {id(tensor) for tensor in adapters.values()}
    finally:
        asyncio.run(learner.close())


def test_merged_publication_is_the_students_function_in_a_plain_model(path: Path) -> None:
    """Weights: W + 8 B A in float64, to 2**-22 of the largest. Logits: a float32 rounding per weight more, 1e-4."""
    student = load(path)
    publication = publish(student)
    model = plain(path)
    parameters = dict(model.named_parameters())
    assert [entry.name for entry in publication.manifest.tensors] == list(parameters)
    before = logits(model)
    adapters = {
        name.removeprefix("base_model.model."): tensor for name, tensor in adapter_tensors(student.model).items()
    }
    with torch.no_grad():
        for name, tensor in read_tensors(publication.buckets, publication.manifest.tensors):
            wanted, module = parameters[name].double(), name.removesuffix(".weight")
            if f"{module}.lora_A.weight" in adapters:
                low, high = (adapters[f"{module}.lora_{part}.weight"].double() for part in "AB")
                wanted = wanted + 32 / 4 * high @ low
            assert (tensor.double() - wanted).abs().max() <= 2**-22 * wanted.abs().max()
            parameters[name].copy_(tensor)
    expected = logits(student.model)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    assert (before - expected).abs().max() > 0.1


def test_merged_weights_exist_one_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight is merged when the publisher reads it, and let go before the next one."""
    import weakref

    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0
    merge = MergedWeight.detach

    def watched(self: MergedWeight) -> torch.Tensor:
        nonlocal most
        merged = merge(self)
        alive.append(weakref.ref(merged))
        most = max(most, sum(reference() is not None for reference in alive))
        return merged

    student = load(path)
    monkeypatch.setattr(MergedWeight, "detach", watched)
    publish(student)
    assert len(alive) == 14
    assert most <= 2


def test_adapter_publication_holds_the_adapters_alone(path: Path) -> None:
    student = load(path, publish="adapter")
    publication = publish(student)
    assert {entry.name for entry in publication.manifest.tensors} == adapter_tensors(student.model).keys()
    assert all(entry.name.startswith("base_model.model.model.layers.") for entry in publication.manifest.tensors)
    whole = publish(load(path))
    assert sum(publication.manifest.bucket_bytes) < sum(whole.manifest.bucket_bytes) / 8


@pytest.mark.parametrize("publish_as", ["merged", "adapter"])
def test_the_hf_sampler_samples_what_was_published(path: Path, publish_as: str) -> None:
    """Greedy completions and their log-probs against the student's own forward: 1e-4 nats, float32."""
    student = load(path, publish=publish_as)
    config = student.adapters.config
    sampler = HfSampler(
        path,
        dtype="float32",
        pad_token_id=tiny.PAD,
        num_ids=tiny.VOCABULARY,
        adapter=config if publish_as == "adapter" else None,
    )
    params = SamplingParams(max_new_tokens=8, temperature=0, stop_token_ids=(tiny.STOP,))

    async def scenario() -> tuple[list, list]:
        before = await sampler.sample(tiny.prompts([5, 3]), params)
        assert await sampler.load_weights(publish(student)) == 1
        after = await sampler.sample(tiny.prompts([5, 3]), params)
        await sampler.close()
        return before, after

    before, after = asyncio.run(scenario())
    base = plain(path)
    for items, model in ((before, base), (after, student.model)):
        for item in items:
            ids = torch.from_numpy(np.concatenate([item.prompt_ids, item.completion_ids])).long()[None]
            with torch.no_grad():
                rows = torch.log_softmax(model(ids).logits[0], -1)[item.prompt_ids.size - 1 : -1]
            chosen = rows.gather(1, torch.from_numpy(item.completion_ids).long()[:, None])[:, 0]
            np.testing.assert_allclose(item.behaviour_log_probs, chosen.numpy(), atol=1e-4)
    assert after[0].versions.oldest == 1


def test_a_saved_adapter_loads_with_peft_and_transformers(path: Path, tmp_path: Path) -> None:
    student = load(path)
    save_student(student, tmp_path / "final", source=path)
    names = {file.name for file in (tmp_path / "final").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert not names & {"config.json", "model.safetensors"}
    config = json.loads((tmp_path / "final" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(path.resolve())
    assert config["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    expected = logits(student.model)
    wrapped = PeftModel.from_pretrained(plain(path), tmp_path / "final")
    assert torch.equal(logits(wrapped), expected)
    assert torch.equal(logits(plain(tmp_path / "final")), expected)
    assert AutoTokenizer.from_pretrained(tmp_path / "final").convert_tokens_to_ids("w7") == 7


def test_a_merged_save_is_a_plain_model(path: Path, tmp_path: Path) -> None:
    student = load(path, save="merged")
    save_student(student, tmp_path / "final", source=path)
    assert not (tmp_path / "final" / "adapter_config.json").exists()
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "final", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.use_cache
    published = publish(load(path, publish="merged"))
    found = dict(model.named_parameters())
    for name, tensor in read_tensors(published.buckets, published.manifest.tensors):
        assert torch.equal(found[name], tensor), name


def test_adapters_on_a_model_with_transposed_weights(tmp_path: Path) -> None:
    """GPT-2 keeps its projections as [in, out]."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=32, n_layer=2, n_head=2, n_positions=128, vocab_size=tiny.VOCABULARY, eos_token_id=1, bos_token_id=None
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tiny.save_tokenizer(tmp_path / "base")
    student = load(tmp_path / "base", save="merged")
    save_student(student, tmp_path / "final", source=tmp_path / "base")
    expected = logits(student.model)
    found = logits(plain(tmp_path / "final"))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("nope",), "not found"),
        (("lm_head", "q_proj"), "lm_head reads or writes the vocabulary"),
        (("embed_tokens",), "embed_tokens reads or writes the vocabulary"),
        (("norm",), "not supported"),
    ],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
def test_modules_without_adapters_are_refused(path: Path, targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=f"student.lora.target_modules.*{message}"):
        load_student(path, gradient_checkpointing=False, lora=LoraConfig(target_modules=targets))


@pytest.fixture(autouse=True)
def _one_seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield
