"""The teacher behind a server: what is asked, what is tried again and what is not, and what is refused at the start."""

import asyncio
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gkd_dist.divergences.topk import topk_teacher
from gkd_dist.errors import ConfigError, EngineError
from gkd_dist.targets import TeacherTargets
from gkd_dist.teachers.endpoint import Endpoint
from gkd_dist.teachers.prompt_log_probs import PromptScoring, SampledScoring, TopKScoring
from gkd_dist.teachers.server_teacher import ServerTeacher
from gkd_dist.types import FinishReason, SampleId, Source, Trajectory
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
    num_ids: int = NUM_IDS,
    max_model_len: int = 64,
    key_env: str | None = None,
    key: str = "teacher",
    timeout_s: float = 5.0,
    max_retries: int = 2,
    max_concurrent_requests: int = 8,
    deadline_s: float = 60.0,
) -> ServerTeacher:
    return ServerTeacher(
        Endpoint(url, key_env, timeout_s, max_retries, key),
        model=folder,
        served_model_name=name,
        max_model_len=max_model_len,
        scoring=scoring,
        num_rows=NUM_IDS,
        num_ids=num_ids,
        max_concurrent_requests=max_concurrent_requests,
        deadline_s=deadline_s,
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


# padded heads


def test_padded_ids_are_passed_on_and_the_learner_normalises_without_them(folder: Path) -> None:
    """Real are the ids below 100; after id 98 the most probable is 99, and then come padded ones."""
    trajectory = Trajectory(
        SampleId("r", 0), np.array([5], np.int32), np.array([98], np.int32), Source.GROUND_TRUTH, FinishReason.LENGTH
    )
    with serving(Script()) as url:
        teacher = connect(url, folder, num_ids=100)
        (targets,) = asyncio.run(teacher.score([trajectory]))
    assert targets.token_ids.tolist() == [[99, 100, 101]]
    cut = topk_teacher(torch.from_numpy(targets.token_ids), torch.from_numpy(targets.log_probs), num_ids=100)
    np.testing.assert_allclose(cut.log_probs[0, 0].exp(), 0.5 / (1 - 0.25 - 0.125), rtol=1e-6)


def test_padding_that_sampled_log_probs_would_not_show_is_refused(folder: Path) -> None:
    """28 ids of 1e-2 each; the log-prob of one token says nothing about them."""
    padding = {token: float(np.log(1e-2)) for token in range(100, NUM_IDS)}
    problem = problem_of(folder, Script(own_log_probs=padding), scoring=SampledScoring(), num_ids=100)
    assert problem.startswith("teacher.transport=sampled: this model gives the 28 ids that no tokenizer knows a")
    assert "about 0.28" in problem and "use transport=topk, or engine=vllm" in problem


def test_padding_that_is_never_probable_is_no_obstacle(folder: Path) -> None:
    script = Script(own_log_probs=dict.fromkeys(range(100, NUM_IDS), -12.0))
    with serving(script) as url:
        connect(url, folder, scoring=SampledScoring(), num_ids=100)
    asked = {request["prompt"][-1] for request in script.requests[1:]}
    assert len(asked) == 8 and min(asked) == 100 and max(asked) == NUM_IDS - 1


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


def test_an_answer_that_comes_in_pieces_has_no_more_time_than_another(folder: Path) -> None:
    """Each byte is in time, the whole is not: without a limit on it the server would decide how long to wait."""
    script = Script()
    with serving(script) as url:
        teacher = connect(url, folder, timeout_s=0.3, max_retries=0)
        script.failures = [-2] * 3
        with pytest.raises(EngineError, match=r"no whole answer within 0.3 s, in 1 attempts; raise teacher.request"):
            score(teacher)


def test_an_answer_that_comes_in_pieces_is_tried_again(folder: Path) -> None:
    script = Script()
    with serving(script) as url:
        teacher = connect(url, folder, timeout_s=0.5, max_retries=1)
        script.failures = [-2]
        assert [item.num_tokens for item in score(teacher)] == [3, 1, 6]
    assert len(script.requests) == 1 + len(SHAPES) + 1


def test_all_attempts_together_end_at_the_deadline(folder: Path) -> None:
    script = Script()
    with serving(script) as url:
        teacher = connect(url, folder, max_retries=1000, deadline_s=0.5)
        script.failures = [503] * 1000
        with pytest.raises(EngineError, match=r"did not score 3 sequences within 0.5 s.*cluster.request_timeout_s"):
            score(teacher)


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
    problem = problem_of(folder, Script(is_a_web_page=True))
    assert "/v1: it did not answer as vLLM does: it sent a web page; give the address of `vllm serve`" in problem


def test_an_address_without_v1(folder: Path) -> None:
    with serving(Script()) as url, pytest.raises(ConfigError) as caught:
        connect(url.removesuffix("/v1"), folder)
    assert str(caught.value).endswith(f"answered 404: Not Found; teacher.base_url does not end in /v1: is it {url}?")


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


def test_what_is_served_is_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(Script()) as url, caplog.at_level("INFO", logger="gkd_dist"):
        connect(url, folder)
    assert f"teacher: {url} serves tiny, loaded from /models/tiny" in caplog.messages


@pytest.mark.parametrize("scoring", [TOP_3, SampledScoring()], ids=["topk", "sampled"])
def test_logits_in_place_of_log_probs(folder: Path, scoring: PromptScoring) -> None:
    assert "these are no log-probs" in problem_of(folder, Script(logits=True), scoring=scoring)


@pytest.mark.parametrize("scoring", [TOP_3, SampledScoring()], ids=["topk", "sampled"])
def test_logits_below_zero_in_place_of_log_probs(folder: Path, scoring: PromptScoring) -> None:
    """No probability above 1 gives them away: what is missing does."""
    assert "of at most 1.371e-13 together, so these are no log-probs" in problem_of(
        folder, Script(shift=-30.0), scoring=scoring
    )


def test_the_key_comes_from_the_environment_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "meant for somebody else")
    monkeypatch.setenv("TEACHER_KEY", "sesame")
    script = Script(key="sesame")
    assert "answered 401" in problem_of(folder, script)
    assert "teacher.api_key_env" in problem_of(folder, script)
    with serving(script) as url:
        connect(url, folder, key_env="TEACHER_KEY")
    monkeypatch.setenv("TEACHER_KEY", "open")
    problem = problem_of(folder, script, key_env="TEACHER_KEY")
    assert problem.endswith("the key in $TEACHER_KEY (teacher.api_key_env) is not one it takes; export another")
    monkeypatch.delenv("TEACHER_KEY")
    assert problem_of(folder, script, key_env="TEACHER_KEY").startswith("teacher.api_key_env: $TEACHER_KEY is not set")


def test_messages_name_the_settings_of_one_teacher_of_several(folder: Path) -> None:
    assert problem_of(folder, Script(models=["a"]), name="b", key="teachers.math").startswith(
        "teachers.math.served_model_name: the server has no model b"
    )
    with serving(Script()) as url:
        teacher = connect(url, folder, key="teachers.math", max_retries=100, deadline_s=0.1)
    with pytest.raises(EngineError, match=r"lower teachers.math.request_timeout_s"):
        score(teacher)
