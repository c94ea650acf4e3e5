"""`gkd eval` that was stopped, or failed behind the writing, goes on from what the model wrote."""

import fcntl
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gkd_dist.build.evaluation import EvalEngines
from gkd_dist.cli import main
from gkd_dist.errors import EngineError
from gkd_dist.evaluation import results
from gkd_dist.evaluation.drafts import Drafts, draft_path, superseding
from gkd_dist.evaluation.predictions import Prediction, Sample, write_predictions
from gkd_dist.evaluation.writers import Completion, SamplingWriter
from gkd_dist.types import Prompt, SamplingParams
from tests.tiny import prompts, save_causal

WRITE = SamplingWriter.write


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    save_causal(path / "student", seed=1)
    save_causal(path / "teacher", seed=2)
    return path


@pytest.fixture
def evaluate(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Five prompts, two at a time; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"w{n} w5", "completion": "w4"} for n in range(7, 12)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    arguments = [
        "eval", str(models / "student"), "--task", "generation", "--data", "rows.jsonl", "decoding.temperature=1",
        "decoding.max_new_tokens=4", "decoding.batch_size=2", "num_resamples=100",
    ]  # fmt: skip
    return lambda *overrides: main([*arguments, *overrides])


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of batches."""
    sizes: list[int] = []

    async def write(self: SamplingWriter, asked: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        sizes.append(len(asked))
        return await WRITE(self, asked, params)

    monkeypatch.setattr(SamplingWriter, "write", write)
    return sizes


def stopped(evaluate: Callable[..., int], num_batches: int, *overrides: str) -> None:
    """Ctrl-C behind so many batches."""
    left = num_batches

    async def write(self: SamplingWriter, asked: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return await WRITE(self, asked, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SamplingWriter, "write", write)
        assert evaluate(*overrides) == 130


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("output", [("output=out/e",), ()])
def test_an_evaluation_that_was_stopped_writes_what_an_undisturbed_one_does(
    output: tuple[str, ...], evaluate: Callable[..., int], written: list[int], tmp_path: Path
) -> None:
    assert evaluate("output=whole") == 0
    folder = tmp_path / "out" / "e" if output else tmp_path / "evaluations" / "student-generation-1"
    stopped(evaluate, 2, *output)
    assert draft_path(folder).is_file() and not (folder / "results.json").exists()
    written.clear()
    assert evaluate(*output, "decoding.batch_size=3", "confidence=0.9") == 0  # which change no text
    assert written == [1]
    assert names(folder) == ["predictions.jsonl", "results.json"] and names(folder.parent) == [folder.name]
    whole, own = ((each / "predictions.jsonl").read_bytes() for each in (tmp_path / "whole", folder))
    assert own == whole


def test_what_was_written_outlives_a_teacher_that_fails(
    evaluate: Callable[..., int], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [f"teacher={models / 'teacher'}", "fields.reference=completion"]
    assert evaluate(*arguments, "output=whole") == 0

    def broken(_: EvalEngines) -> None:
        raise EngineError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(EvalEngines, "make_teacher", broken)
        assert evaluate(*arguments, "output=e") == 70
    assert draft_path(tmp_path / "e").is_file()
    monkeypatch.setattr(EvalEngines, "make_writer", broken)  # nothing is left to be written
    assert evaluate(*arguments, "output=e") == 0
    whole, own = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in ("whole", "e"))
    assert own == whole
    assert not draft_path(tmp_path / "e").exists()


def test_drafts_of_other_settings_are_not_used_and_not_lost(
    evaluate: Callable[..., int], written: list[int], tmp_path: Path
) -> None:
    stopped(evaluate, 2, "output=e")
    before = draft_path(tmp_path / "e").read_bytes()
    assert evaluate("output=e", "seed=1") == 0
    assert sum(written) == 5
    assert (tmp_path / "e.draft.1").read_bytes() == before


def test_commands_without_an_output_have_folders_of_their_own(
    evaluate: Callable[..., int], written: list[int], tmp_path: Path
) -> None:
    folder = tmp_path / "evaluations"
    stopped(evaluate, 1)
    stopped(evaluate, 2, "seed=1")
    first, second = (folder / f"student-generation-{number}.draft" for number in (1, 2))
    assert first.is_file() and second.is_file()
    assert evaluate("seed=1") == 0
    assert sum(written) == 1
    assert (folder / "student-generation-2" / "results.json").is_file() and not second.exists()
    before = first.read_bytes()
    with first.open("ab") as holder:  # the first command is at work again
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert evaluate() == 0
    assert sum(written) == 1 + 5
    assert (folder / "student-generation-3" / "results.json").is_file()
    assert first.read_bytes() == before


@pytest.mark.parametrize("output", [("output=evaluations/e",), ()])
def test_an_evaluation_that_wrote_nothing_leaves_nothing(
    output: tuple[str, ...], evaluate: Callable[..., int], tmp_path: Path
) -> None:
    stopped(evaluate, 0, *output)
    assert names(tmp_path / "evaluations") == []


def test_two_evaluations_do_not_write_one_folder(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Drafts(draft_path(tmp_path / "e"), {}, []):
        assert evaluate("output=e") != 0
    assert "another process writes there" in capsys.readouterr().err


@pytest.mark.parametrize("reward", [(), ("fields.reference=completion", "reward.type=answer", "reward.match=exact")])
def test_a_kill_while_a_file_is_written_does_not_end_it(
    reward: tuple[str, ...],
    evaluate: Callable[..., int],
    written: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "e"
    with monkeypatch.context() as patch:
        patch.setattr(results, "write_results", killed)
        assert evaluate("output=e", *reward) == 130
    assert names(folder) == (["predictions.jsonl"] if reward else [])
    folder.mkdir(exist_ok=True)
    (folder / ".predictions.jsonl.1.tmp").write_text("{")
    written.clear()
    assert evaluate("output=e", *reward) == 0
    assert written == []
    assert names(folder) == [".predictions.jsonl.1.tmp", "predictions.jsonl", "results.json"]
    assert not draft_path(folder).exists()


def test_what_another_command_wrote_between_check_and_lock_is_left_to_it(
    evaluate: Callable[..., int],
    written: list[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, enter = tmp_path / "e", Drafts.__enter__
    drafts = b'{"of": "0a"}\n{"place": 0, "token_ids": [5], "is_truncated": false}\n'

    def late(self: Drafts) -> Drafts:
        folder.mkdir()
        (folder / "predictions.jsonl").write_text("of another\n")
        draft_path(folder).write_bytes(drafts)
        return enter(self)

    monkeypatch.setattr(Drafts, "__enter__", late)
    assert evaluate("output=e") == 2
    assert "holds what a model wrote, without figures" in capsys.readouterr().err
    assert written == []
    assert (folder / "predictions.jsonl").read_text() == "of another\n"
    assert (tmp_path / "e.draft.1").read_bytes() == drafts
    assert not draft_path(folder).exists()


def test_figures_again_do_not_take_the_folder_of_an_evaluation_that_can_go_on(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor their own one, while it is being written."""
    stopped(evaluate, 2, "output=e")
    draft = draft_path(tmp_path / "e")
    before, file = draft.read_bytes(), tmp_path / "other" / "predictions.jsonl"
    write_predictions([Prediction("generation", 0, "w7", samples=(Sample("w4", 1, False),))], file)
    again = ["eval", "--predictions", str(file), "num_resamples=100"]
    assert main([*again, "output=e"]) == 2
    assert f"error: output: an evaluation into e was stopped and can go on from {draft}" in capsys.readouterr().err
    assert draft.read_bytes() == before and not (tmp_path / "e").exists()
    with Drafts(draft_path(file.parent), {}, []):
        assert main([*again, "output=other"]) != 0
    assert "another process writes there" in capsys.readouterr().err
    assert names(file.parent) == ["predictions.jsonl"]
    assert main([*again, "output=other"]) == 0
    assert names(file.parent) == ["predictions.jsonl", "results.json"]
    assert names(tmp_path) == ["e.draft", "other", "rows.jsonl"]


def test_drafts_are_removed_behind_what_supersedes_them_and_nothing_else_is(tmp_path: Path) -> None:
    path, other = tmp_path / "e.draft", tmp_path / "notes.draft"
    other.write_text("mine\n")
    with Drafts(path, {}, prompts([3])):
        pass
    with pytest.raises(KeyboardInterrupt), superseding(path):
        raise KeyboardInterrupt
    assert path.exists()
    for each in (path, other, tmp_path / "none.draft"):
        with superseding(each):
            assert each.exists()
    assert names(tmp_path) == ["notes.draft"]
