"""What a run leaves is served by vLLM, and answers through the OpenAI client as it should."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from openai import OpenAI
from transformers import AutoModelForCausalLM

from gkd_dist.cli import main
from tests.serving import VllmServe
from tests.tiny_runs import arguments

pytestmark = pytest.mark.vllm

PROMPT = [5, 31, 77, 12]
NUM_TOKENS = 12


def test_the_final_student_is_served(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Greedy answers are those of transformers on the same folder, token by token, in float32."""
    assert main(["run", *arguments(models, data, tmp_path, "evaluation.enabled=false")]) == 0
    final = (tmp_path / "latest" / "final").resolve()
    assert ModelCard.load(final / "README.md").data.library_name == "transformers"
    model = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model.generate(torch.tensor([PROMPT]), do_sample=False, max_new_tokens=NUM_TOKENS)[0, len(PROMPT) :]
    server = VllmServe(final, tmp_path / "serve.log", "--served-model-name", "student", "--max-model-len", "128")
    try:
        server.start()
        server.wait()
        with OpenAI(base_url=server.url, api_key="none", timeout=60) as client:
            assert [each.id for each in client.models.list()] == ["student"]
            answer = client.completions.create(
                model="student",
                prompt=PROMPT,
                temperature=0,
                max_tokens=NUM_TOKENS,
                extra_body={"return_token_ids": True, "skip_special_tokens": False},
            ).choices[0]
            text = client.completions.create(model="student", prompt="w5 w31", temperature=1, max_tokens=4, seed=1)
    finally:
        server.kill()
    assert answer.model_extra["token_ids"] == expected.tolist()
    assert set(text.choices[0].text.split()) <= {f"w{number}" for number in range(3, 128)} | {"</s>", "<unk>"}
