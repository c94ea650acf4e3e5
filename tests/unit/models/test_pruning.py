import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, T5Config, T5ForConditionalGeneration

from gkd_dist.cli.pruning import prune as prune_command
from gkd_dist.errors import ModelError
from gkd_dist.models.pruning import prune, pruned_student

from .tiny import NUM_LAYERS, seeded, tiny_gpt2, tiny_llama, tiny_qwen2

Save = Callable[[PreTrainedModel], Path]
INPUT_IDS = torch.arange(24).reshape(2, 12) % 97


def logits_of(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(input_ids=INPUT_IDS).logits


def test_given_layers_are_dropped_and_the_rest_is_copied(model: PreTrainedModel, saved: Save, tmp_path: Path) -> None:
    model.generation_config.eos_token_id = [257, 3]
    source, output = saved(model), tmp_path / "student"
    report = prune(source, output, 3, (3, 1))
    assert report.dropped == (1, 3)
    assert report.kept == (0, 2, 4)
    assert report.single_kl_nats is None
    assert report.kl_nats > 0.01
    student = AutoModelForCausalLM.from_pretrained(output)
    assert student.config.num_hidden_layers == 3
    assert student.generation_config.eos_token_id == [257, 3]
    assert report.num_parameters == student.num_parameters() < model.num_parameters()
    text = "2 + 2 = 4"
    assert (
        AutoTokenizer.from_pretrained(output)(text).input_ids == AutoTokenizer.from_pretrained(source)(text).input_ids
    )


def test_pruning_twice_equals_pruning_once(model: PreTrainedModel, saved: Save, tmp_path: Path) -> None:
    source = saved(model)
    prune(source, tmp_path / "once", 3, (1, 3))
    prune(source, tmp_path / "first", 4, (1,))
    prune(tmp_path / "first", tmp_path / "second", 3, (2,))  # layer 3 of the source
    torch.testing.assert_close(logits_of(tmp_path / "second"), logits_of(tmp_path / "once"))


def test_layers_are_chosen_when_none_are_given(saved: Save, tmp_path: Path) -> None:
    source = saved(seeded(tiny_llama))
    report = prune(source, tmp_path / "chosen", 3)
    assert report.single_kl_nats is not None and len(report.single_kl_nats) == NUM_LAYERS
    given = prune(source, tmp_path / "given", 3, report.dropped)
    assert given.kl_nats == pytest.approx(report.kl_nats, abs=1e-6)


def test_a_layer_that_depends_on_its_index_is_refused(saved: Save, tmp_path: Path) -> None:
    source = saved(seeded(lambda: tiny_gpt2(scale_attn_by_inverse_layer_idx=True)))
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel cannot be pruned: .* depend on their index"):
        prune(source, tmp_path / "student", 3, (0, 1))
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("num_layers", "drop_layers", "message"),
    [
        (5, None, "has 5 layers, cannot keep 5; choose 1 to 4"),
        (0, None, "cannot keep 0"),
        (3, (1, 5), r"has no layers \[5\]; drop_layers takes 0 to 4"),
        (3, (-1, 2), r"has no layers \[-1\]"),
        (3, (1, 1), "names a layer twice"),
        (3, (1,), "drops 2, but drop_layers names 1"),
        (3, (), "drops 2, but drop_layers names 0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_before_the_model_loads(
    num_layers: int, drop_layers: tuple[int, ...] | None, message: str, saved: Save, tmp_path: Path
) -> None:
    source = saved(seeded(tiny_llama))
    (source / "model.safetensors").write_bytes(b"loading this would fail")
    with pytest.raises(ModelError, match=message):
        prune(source, tmp_path / "student", num_layers, drop_layers)
    with pytest.raises(ModelError, match=message):
        pruned_student(source, num_layers, drop_layers, tmp_path / "cache")
    assert not (tmp_path / "student").exists()


def test_a_taken_output_is_refused_and_left_alone(saved: Save, tmp_path: Path) -> None:
    output = tmp_path / "student"
    output.mkdir()
    (output / "mine").write_text("keep")
    with pytest.raises(ModelError, match="not empty"):
        prune(saved(seeded(tiny_llama)), output, 3, (1, 2))
    with pytest.raises(ModelError, match="not empty"):
        prune_command("package:never-looked-at", output, 3, None)
    assert (output / "mine").read_text() == "keep"


def test_encoder_decoders_damaged_weights_and_missing_tokenizers_are_refused(
    saved: Save, tmp_path: Path, tokenizer: object
) -> None:
    config = T5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=8, num_layers=4, num_heads=2)
    t5 = saved(seeded(lambda: T5ForConditionalGeneration(config)))
    with pytest.raises(ModelError, match="is not a plain decoder"):
        prune(t5, tmp_path / "student", 3)
    llama = saved(seeded(tiny_llama))
    (llama / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot load"):
        prune(llama, tmp_path / "student", 3)
    qwen2 = tmp_path / "no-tokenizer"
    seeded(tiny_qwen2).save_pretrained(qwen2)
    with pytest.raises(ModelError, match="tokenizer"):
        prune(qwen2, tmp_path / "student", 3)
    assert not (tmp_path / "student").exists()


def test_student_is_cached_by_source_and_request(saved: Save, tmp_path: Path) -> None:
    source, cache = saved(seeded(tiny_llama)), tmp_path / "cache"
    first = pruned_student(source, 3, (1, 2), cache)
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert pruned_student(source, 3, (2, 1), cache) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    assert pruned_student(source, 3, (1, 3), cache) != first
    facts = json.loads((first / "gkd_manifest.json").read_text())
    assert facts["dropped"] == [1, 2] and facts["pruned_from"] == source.name
    seeded(lambda: tiny_llama()).save_pretrained(source)  # the source is another one now
    assert pruned_student(source, 3, (1, 2), cache) != first


def test_command_prints_what_it_did(saved: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "student"
    prune_command(str(saved(seeded(tiny_llama))), output, 3, (1, 2))
    printed = capsys.readouterr().out
    assert str(output) in printed and "forward KL" in printed
    assert printed.count("dropped") == 2 and printed.count("kept") == 3
