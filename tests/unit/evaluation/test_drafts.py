"""Completions that are kept while they are written: what a kill leaves, and what is asked again."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist import evaluating
from gkd_dist.cli import main
from gkd_dist.errors import RunError
from gkd_dist.evaluation import drafts as drafts_module
from gkd_dist.evaluation.drafts import Drafts
from gkd_dist.evaluation.writers import Completion, write_all
from gkd_dist.types import Prompt, SamplingParams
from tests.tiny import prompts, save_causal

PARAMS = SamplingParams(max_new_tokens=4)
AUTHOR = {"model": "a", "seed": 0}


class Counting:
    """Writes the sum of a prompt; dies after `num_batches`."""

    def __init__(self, num_batches: int = 1000) -> None:
        self.asked: list[Prompt] = []
        self._left = num_batches

    async def write(self, asked: Sequence[Prompt], _params: SamplingParams) -> list[Completion]:
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        self.asked += asked
        return [Completion(np.array([each.token_ids.sum()], np.int32), each.token_ids.size > 3) for each in asked]

    async def close(self) -> None:
        """Nothing is open."""


def write(
    writer: Counting,
    path: Path,
    asked: list[Prompt],
    author: dict[str, object] = AUTHOR,
    told: list[str] | None = None,
) -> list[Completion]:
    with Drafts(path, author, asked, ([] if told is None else told).append) as drafts:
        return asyncio.run(write_all(writer, asked, PARAMS, batch_size=2, progress=lambda _: None, kept=drafts))


def interrupted(path: Path, asked: list[Prompt], num_batches: int) -> Counting:
    writer = Counting(num_batches)
    with pytest.raises(KeyboardInterrupt):
        write(writer, path, asked)
    return writer


def same(left: Sequence[Completion], right: Sequence[Completion]) -> bool:
    return [(each.token_ids.tolist(), each.is_truncated) for each in left] == [
        (each.token_ids.tolist(), each.is_truncated) for each in right
    ]


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=9), num_batches=st.integers(0, 3), cut=st.integers(0, 40)
)
def test_what_was_kept_is_not_asked_again_wherever_a_kill_cut_the_file(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], num_batches: int, cut: int
) -> None:
    path, asked = tmp_path_factory.mktemp("drafts") / "out.draft", prompts(lengths)
    whole = asyncio.run(write_all(Counting(), asked, PARAMS, batch_size=2, progress=lambda _: None))
    if num_batches * 2 >= len(asked):
        num_batches = 0
    interrupted(path, asked, num_batches)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    num_kept = max(0, path.read_bytes().count(b"\n") - 1)
    again = Counting()
    assert same(write(again, path, asked), whole)
    assert len(again.asked) == len(asked) - num_kept
    assert same(write(rest := Counting(), path, asked), whole) and not rest.asked


@pytest.mark.parametrize("change", ["author", "prompts"])
def test_drafts_of_another_model_or_for_other_prompts_are_kept_and_begun_anew(tmp_path: Path, change: str) -> None:
    path, asked = tmp_path / "out.draft", prompts([3, 4, 5])
    interrupted(path, asked, 1)
    before = path.read_bytes()
    author = AUTHOR | {"seed": 1} if change == "author" else AUTHOR
    asked = prompts([3, 4, 6]) if change == "prompts" else asked
    again, told = Counting(), list[str]()
    write(again, path, asked, author, told)
    assert len(again.asked) == 3
    former = tmp_path / "out.draft.1"
    assert told == [f"what {path} held is of another command: it is kept as {former}, all is written anew"]
    assert former.read_bytes() == before
    former.rename(path)  # back to the first command
    rest = Counting()
    write(rest, path, prompts([3, 4, 5]))
    assert len(rest.asked) == 1


def test_going_on_is_told(tmp_path: Path) -> None:
    path, asked = tmp_path / "out.draft", prompts([3, 4, 5])
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        write(Counting(1), path, asked, told=told)
    assert told == []
    write(Counting(), path, asked, told=told)
    assert told == [f"going on behind 2 of 3 completions, kept in {path}"]


def test_two_commands_do_not_write_one_file(tmp_path: Path) -> None:
    path, asked = tmp_path / "out.draft", prompts([3, 4, 5])
    with Drafts(path, AUTHOR, asked) as drafts:
        drafts.add({0: Completion(np.array([7], np.int32), False)})
        before = path.read_bytes()
        with pytest.raises(RunError, match="another process writes there"), Drafts(path, AUTHOR | {"seed": 1}, asked):
            raise AssertionError("both wrote")
        assert path.read_bytes() == before
    with Drafts(path, AUTHOR, asked) as drafts:
        assert list(drafts.completions) == [0]


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe nothing of ours\n{",
        b"a line without an end",
        b'{"of": "me"}\n',
        b'["json"]\n',
        b'{"of": "0a"}\n[1]\n',
    ],
)
def test_a_file_that_holds_no_drafts_is_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out.draft"
    (tmp_path / "out.draft.1").write_text("taken")
    path.write_bytes(content)
    again = Counting()
    write(again, path, prompts([3]))
    assert len(again.asked) == 1
    assert (tmp_path / "out.draft.2").read_bytes() == content
    assert (tmp_path / "out.draft.1").read_text() == "taken"


def test_damaged_drafts_of_the_same_command_are_kept(tmp_path: Path) -> None:
    path, asked = tmp_path / "out.draft", prompts([3, 4, 5])
    interrupted(path, asked, 1)
    content = path.read_bytes().replace(b'{"place": 1', b'{"place_": 1')
    path.write_bytes(content)
    again = Counting()
    write(again, path, asked)
    assert len(again.asked) == 3
    assert (tmp_path / "out.draft.1").read_bytes() == content


def test_another_command_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    path, asked = tmp_path / "out.draft", prompts([3, 4])
    interrupted(path, asked, 0)
    for cut in (0, 1, 3, 40, 70):
        path.write_bytes(path.read_bytes()[: -cut or None])
        write(Counting(), path, asked, AUTHOR | {"seed": 1})
        path.unlink()
        interrupted(path, asked, 0)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_taken_away_before_it_was_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a command that ends between the two calls: nobody would see what is written into it."""
    path, asked = tmp_path / "out.draft", prompts([3, 4, 5])
    lock, times = drafts_module.fcntl.flock, 0

    def late(stream: Any, flags: int) -> None:
        nonlocal times
        times += 1
        if times == 1:
            path.unlink()
        elif times == 2:
            path.unlink()
            path.write_text("")  # and the next one has begun
        lock(stream, flags)

    monkeypatch.setattr(drafts_module.fcntl, "flock", late)
    with Drafts(path, AUTHOR, asked) as drafts:
        drafts.add({0: Completion(np.array([7], np.int32), False)})
        with pytest.raises(RunError, match="another process writes there"), Drafts(path, AUTHOR, asked):
            raise AssertionError("both wrote")
    with Drafts(path, AUTHOR, asked) as drafts:
        assert list(drafts.completions) == [0]


def generating(tmp_path: Path, *overrides: str) -> list[str]:
    """A command; five prompts, three tokens each."""
    if not (tmp_path / "model").exists():
        save_causal(tmp_path / "model", seed=1)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"w{n} w5"}) + "\n" for n in range(7, 12)))
    return [
        "generate", str(tmp_path / "model"), "--prompts", str(data), "--output", str(tmp_path / "out.jsonl"),
        "decoding.temperature=1", "decoding.max_new_tokens=3", *overrides,
    ]  # fmt: skip


def test_no_other_command_writes_there_until_the_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []

    def write_whole(path: Path, content: bytes) -> None:
        with (
            pytest.raises(RunError, match="another process writes there"),
            Drafts(tmp_path / "out.jsonl.draft", {}, []),
        ):
            pass
        refused.append(path)
        path.write_bytes(content)

    monkeypatch.setattr(evaluating, "write_whole", write_whole)
    assert main(generating(tmp_path)) == 0
    assert refused == [tmp_path / "out.jsonl"]
    assert not (tmp_path / "out.jsonl.draft").exists()


@pytest.mark.parametrize(
    ("key", "num_written"),
    [
        ("decoding.batch_size=3", 3),
        ("num_resamples=200", 3),
        ("confidence=0.9", 3),
        ("rouge_stemmer=false", 3),
        ("bleu_tokenize=intl", 3),
        ("seed=1", 5),
        ("decoding.top_k=5", 5),
    ],
)
def test_keys_that_change_no_text_do_not_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, num_written: int
) -> None:
    from gkd_dist.evaluation.writers import SamplingWriter

    write_for_real, written, dies = SamplingWriter.write, list[int](), True

    async def write_some(self: SamplingWriter, asked: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        if dies and written:
            raise KeyboardInterrupt
        written.append(len(asked))
        return await write_for_real(self, asked, params)

    monkeypatch.setattr(SamplingWriter, "write", write_some)
    assert main(generating(tmp_path, "decoding.batch_size=2")) != 0
    assert written == [2]
    dies = False
    assert main(generating(tmp_path, *dict.fromkeys(["decoding.batch_size=2", key]))) == 0
    assert sum(written) == 2 + num_written


def test_a_command_that_was_stopped_writes_what_an_undisturbed_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gkd_dist.evaluation.writers import SamplingWriter

    save_causal(tmp_path / "model", seed=1)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"w{n} w5"}) + "\n" for n in range(7, 14)))

    def command(name: str) -> list[str]:
        return [
            "generate", str(tmp_path / "model"), "--prompts", str(data), "--output", str(tmp_path / name),
            "decoding.temperature=1", "decoding.num_samples=2", "decoding.max_new_tokens=4", "decoding.batch_size=3",
        ]  # fmt: skip

    assert main(command("whole.jsonl")) == 0
    write_for_real, calls = SamplingWriter.write, 0

    async def write_twice(self: SamplingWriter, asked: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return await write_for_real(self, asked, params)

    monkeypatch.setattr(SamplingWriter, "write", write_twice)
    assert main(command("stopped.jsonl")) != 0
    assert not (tmp_path / "stopped.jsonl").exists()
    calls = 3
    assert main(command("stopped.jsonl")) == 0
    assert calls == 3 + 3, "14 completions, of which two batches of three were kept"
    assert (tmp_path / "stopped.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "stopped.jsonl.draft").exists()
