"""The teacher behind a server: what is asked, what is tried again and what is not, and what is refused at the start."""

import asyncio
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gkd_dist.errors import ConfigError, EngineError
from gkd_dist.targets import TeacherTargets
from gkd_dist.teachers.endpoint import Endpoint
from gkd_dist.teachers.prompt_log_probs import PromptScoring, SampledScoring, TopKScoring
from gkd_dist.teachers.server_teacher import ServerTeacher
from tests import tiny
from tests.unit.teachers.scripted_server import NUM_IDS, Script, serving

SHAPES = [(5, 3), (2, 1), (4, 6)]
TOP_3 = TopKScoring(3, NUM_IDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer without weights: a server's teacher needs no more."""
    path = tmp_path_factory.mktemp("tokenizer")
    tiny.save_tokenizer(path)
    return path


def connect(
    url: str,
    folder: Path,
    *,
    scoring: PromptScoring = TOP_3,
    name: str | None = None,
    max_model_len: int = 64,
    key_env: str | None = None,
    timeout_s: float = 5.0,
    max_retries: int = 2,
    max_concurrent_requests: int = 8,
) -> ServerTeacher:
    return ServerTeacher(
        Endpoint(url, key_env, timeout_s, max_retries),
        model=folder,
        served_model_name=name,
        max_model_len=max_model_len,
        scoring=scoring,
        max_concurrent_requests=max_concurrent_requests,
    )


def score(teacher: ServerTeacher) -> list[TeacherTargets]:
    async def once() -> list[TeacherTargets]:
        try:
            return list(await teacher.score(tiny.trajectories(SHAPES)))
        finally:
            await teacher.close()

    return asyncio.run(once())


def test_completions_are_scored_in_order_with_token_ids_in_and_out(folder: Path) -> None:
    script = Script(tokenizer=str(folder))
    with serving(script) as url:
        targets = score(connect(url, folder))
    for trajectory, item in zip(tiny.trajectories(SHAPES), targets, strict=True):
        expected = (trajectory.completion_ids[:, None] + np.arange(1, 4)) % NUM_IDS
        np.testing.assert_array_equal(item.token_ids, expected)
        np.testing.assert_allclose(item.log_probs, np.log(0.5) * np.tile([1, 2, 3], (item.num_tokens, 1)), rtol=1e-6)
    asked = {tuple(request["prompt"]): request for request in script.requests[1:]}
    for trajectory in tiny.trajectories(SHAPES):
        request = asked[(*trajectory.prompt_ids.tolist(), *trajectory.completion_ids.tolist())]
        assert request["prompt_logprobs"] == 3
        assert (request["model"], request["max_tokens"], request["temperature"]) == ("tiny", 1, 0.0)


def test_sampled_asks_for_no_candidates(folder: Path) -> None:
    script = Script()
    with serving(script) as url:
        targets = score(connect(url, folder, scoring=SampledScoring()))
    assert {request["prompt_logprobs"] for request in script.requests[1:]} == {0}
    np.testing.assert_allclose(targets[0].log_probs, np.log(0.5) * NUM_IDS, rtol=1e-6)


# retries


@pytest.mark.parametrize("failure", [500, 503, 429, 0])
def test_a_passing_failure_is_tried_again(folder: Path, failure: int) -> None:
    script = Script()
    with serving(script) as url:
        teacher = connect(url, folder)
        script.failures = [failure, failure]
        targets = score(teacher)
    assert [item.num_tokens for item in targets] == [3, 1, 6]
    assert len(script.requests) == 1 + len(SHAPES) + 2


def test_silence_is_tried_again(folder: Path) -> None:
    script = Script()
    with serving(script) as url:
        teacher = connect(url, folder, timeout_s=0.3)
        script.failures = [-1]
        assert [item.num_tokens for item in score(teacher)] == [3, 1, 6]


def test_a_restart_is_outlasted(folder: Path) -> None:
    """The server is gone when the requests are made, and back a second later on the same port."""
    with serving(Script()) as url:
        teacher = connect(url, folder, max_retries=4)
    port = int(url.rpartition(":")[2].removesuffix("/v1"))
    back = threading.Event()

    def restart() -> None:
        time.sleep(1.0)
        with serving(Script(), port):
            back.wait(20)

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        assert [item.num_tokens for item in score(teacher)] == [3, 1, 6]
    finally:
        back.set()
        thread.join()


@pytest.mark.parametrize("failure", [400, 404, 422])
def test_a_refusal_is_not_tried_again(folder: Path, failure: int) -> None:
    script = Script()
    with serving(script) as url:
        teacher = connect(url, folder)
        script.failures = [failure] * 3
        with pytest.raises(EngineError, match=rf"/v1 answered {failure}: as the script says"):
            score(teacher)
    assert len(script.requests) <= 1 + len(SHAPES)


def test_a_server_that_stays_away_is_an_engine_error(folder: Path) -> None:
    with serving(Script()) as url:
        teacher = connect(url, folder, max_retries=1)
    with pytest.raises(EngineError, match=r"does not answer.*is `vllm serve` running there\?"):
        score(teacher)


def test_no_more_requests_are_under_way_than_allowed(folder: Path) -> None:
    script = Script()
    with serving(script) as url:
        teacher = connect(url, folder, max_concurrent_requests=2)
        script.delay_s = 0.1
        asyncio.run(teacher.score(tiny.trajectories(SHAPES * 3)))
    assert script.most_in_flight == 2


# start


def problem_of(folder: Path, script: Script, **settings: object) -> str:
    with serving(script) as url, pytest.raises(ConfigError) as caught:
        connect(url, folder, **settings)
    (problem,) = caught.value.problems
    return problem


def test_nobody_there(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    with pytest.raises(ConfigError, match=r"teacher.base_url: .* does not answer"):
        connect(url, folder)


def test_another_kind_of_server(folder: Path) -> None:
    with serving(Script()) as url, pytest.raises(ConfigError, match=r"teacher.base_url: .*/v2 answered 404"):
        connect(url.replace("/v1", "/v2"), folder)
    assert "/v1: it did not answer as vLLM does" in problem_of(folder, Script(is_a_web_page=True))


def test_a_model_that_is_not_served(folder: Path) -> None:
    assert problem_of(folder, Script(models=["a", "b"]), name="c") == (
        "teacher.served_model_name: the server has no model c; it has a, b"
    )
    assert problem_of(folder, Script(models=["a", "b"])).startswith(
        "teacher.served_model_name: needed, because the server has several models; it has a, b"
    )


def test_too_many_candidates(folder: Path) -> None:
    problem = problem_of(folder, Script(max_logprobs=20), scoring=TopKScoring(21, NUM_IDS))
    assert "answered 400: Requested prompt logprobs of 21" in problem
    assert "--max-logprobs 21" in problem


def test_too_short_a_context(folder: Path) -> None:
    problem = problem_of(folder, Script(max_model_len=64))
    assert problem.startswith("teacher.max_model_len: 64 tokens and the one that vLLM generates do not fit")
    assert "--max-model-len 65" in problem


def test_another_tokenizer(folder: Path, tmp_path: Path) -> None:
    tiny.save_tokenizer(tmp_path, words=["<pad>", "</s>", "w", "<unk>"])
    assert problem_of(folder, Script(tokenizer=str(tmp_path))).startswith("teacher.model: its tokenizer makes")


@pytest.mark.parametrize("scoring", [TOP_3, SampledScoring()], ids=["topk", "sampled"])
def test_logits_in_place_of_log_probs(folder: Path, scoring: PromptScoring) -> None:
    assert "these are no log-probs" in problem_of(folder, Script(logits=True), scoring=scoring)


def test_a_vocabulary_that_is_larger_than_the_tokenizers(folder: Path) -> None:
    assert "which no tokenizer knows" in problem_of(folder, Script(), scoring=TopKScoring(3, num_ids=4))


def test_the_key_comes_from_the_environment_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "meant for somebody else")
    monkeypatch.setenv("TEACHER_KEY", "sesame")
    script = Script(key="sesame")
    assert "answered 401" in problem_of(folder, script)
    assert "teacher.api_key_env" in problem_of(folder, script)
    with serving(script) as url:
        connect(url, folder, key_env="TEACHER_KEY")
    monkeypatch.delenv("TEACHER_KEY")
    assert problem_of(folder, script, key_env="TEACHER_KEY").startswith("teacher.api_key_env: $TEACHER_KEY is not set")
