"""The server teacher against a real vLLM server: killed and started again in mid-run, and asked for what it refuses."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gkd_dist.errors import ConfigError, EngineError
from gkd_dist.targets import TopKTargets
from gkd_dist.teachers.endpoint import Endpoint
from gkd_dist.teachers.prompt_log_probs import TopKScoring
from gkd_dist.teachers.server_teacher import ServerTeacher
from tests import tiny
from tests.serving import VllmServe

pytestmark = pytest.mark.vllm

MAX_MODEL_LEN = 63
KEY = "sesame"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServe]:
    model = tiny.save_causal(tmp_path_factory.mktemp("model"), seed=3)
    settings = ["--max-model-len", str(MAX_MODEL_LEN + 1), "--served-model-name", "tiny", "--api-key", KEY]
    serve = VllmServe(model, model / "serve.log", *settings)
    try:
        serve.start()
        serve.wait()
        yield serve
    finally:
        serve.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the tokenizer alone."""
    path = tmp_path_factory.mktemp("tokenizer")
    tiny.save_tokenizer(path)
    return path


def connect(
    server: VllmServe, folder: Path, *, top_k: int = 5, name: str | None = None, max_model_len: int = MAX_MODEL_LEN
) -> ServerTeacher:
    return ServerTeacher(
        Endpoint(server.url, "GKD_TEST_KEY", timeout_s=60, max_retries=20),
        model=folder,
        served_model_name=name,
        max_model_len=max_model_len,
        scoring=TopKScoring(top_k, tiny.VOCABULARY),
        num_rows=tiny.VOCABULARY,
        num_ids=tiny.VOCABULARY,
        max_concurrent_requests=4,
        deadline_s=280,
    )


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GKD_TEST_KEY", KEY)


def test_more_candidates_than_the_server_allows(server: VllmServe, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"answered 400: .*21.*--max-logprobs 21.*teacher.top_k"):
        connect(server, folder, top_k=21)


def test_a_model_the_server_does_not_have(server: VllmServe, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher.served_model_name: the server has no model other; it has tiny"):
        connect(server, folder, name="other")


def test_longer_sequences_than_the_server_takes(server: VllmServe, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--max-model-len 65"):
        connect(server, folder, max_model_len=64)


def test_a_wrong_key(server: VllmServe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GKD_TEST_KEY", "other")
    with pytest.raises(ConfigError, match=r"answered 401.*teacher.api_key_env"):
        connect(server, folder)


def test_another_tokenizer(server: VllmServe, tmp_path: Path) -> None:
    tiny.save_tokenizer(tmp_path, words=["<pad>", "</s>", "w", "<unk>"])
    with pytest.raises(ConfigError, match=r"teacher.model: its tokenizer makes"):
        connect(server, tmp_path)


def test_the_longest_sequence_fits_and_a_longer_one_is_refused_at_once(server: VllmServe, folder: Path) -> None:
    teacher = connect(server, folder)

    async def both() -> None:
        (longest,) = await teacher.score(tiny.trajectories([(10, MAX_MODEL_LEN - 10)]))
        assert longest.num_tokens == MAX_MODEL_LEN - 10
        with pytest.raises(EngineError, match=r"answered 400"):
            await teacher.score(tiny.trajectories([(10, MAX_MODEL_LEN - 9)]))
        await teacher.close()

    asyncio.run(asyncio.wait_for(both(), 30))


def test_a_server_killed_in_mid_run_is_waited_for(server: VllmServe, folder: Path) -> None:
    """Killed while requests are under way and started again: every completion is scored, as before."""
    trajectories = tiny.trajectories([(5, 20)] * 40)
    teacher = connect(server, folder)

    async def interrupted() -> tuple[list[TopKTargets], list[TopKTargets]]:
        before = list(await teacher.score(trajectories))
        scoring = asyncio.create_task(teacher.score(trajectories))
        await asyncio.sleep(0.05)
        assert not scoring.done()
        await asyncio.to_thread(server.kill)
        server.start()
        after = list(await scoring)
        await teacher.close()
        return before, after

    before, after = asyncio.run(asyncio.wait_for(interrupted(), 240))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)
