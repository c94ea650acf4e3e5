"""From files to what a model is asked."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.config.load import load_eval_config
from gkd_dist.errors import DataError
from gkd_dist.evaluation.questions import Question, read_questions


def lines(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def read(task: str, data: Path, *overrides: str) -> list[Question]:
    given = {"model": "m", "task": task, "data": str(data)}
    return read_questions(load_eval_config(None, given, overrides))


def test_summaries_take_lists_of_texts_and_a_template(tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl.gz", [{"source": ["One.", "Two."], "target": ["a", "b"]}] * 3)
    found = read(
        "summarisation", data, "fields.prompt=source", "fields.reference=target", "num_rows=2",
        "template='summarize: {prompt}'",
    )  # fmt: skip
    assert found == [Question(index, "summarize: One. Two.", ("a", "b")) for index in (0, 1)]


def test_a_column_may_be_inside_another(tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", [{"translation": {"en": "one", "de": "eins"}}])
    found = read("translation", data, "fields={prompt: translation.en, reference: translation.de}")
    assert found == [Question(0, "one", ("eins",))]


def test_word_problems_with_rows_or_a_text_as_examples(tmp_path: Path) -> None:
    data = lines(tmp_path / "test.jsonl", [{"question": "2+2?", "answer": "#### 4"}])
    shots = lines(tmp_path / "train.jsonl", [{"question": f"q{n}", "answer": f"#### {n}"} for n in range(3)])
    (bare,) = read("gsm8k", data)
    assert (bare.prompt, bare.references, bare.stops) == ("2+2?", ("#### 4",), ())
    (shot,) = read("gsm8k", data, f"shots.path={shots}", "shots.num=2")
    assert shot.prompt == ("Question: q0\nAnswer: #### 0\n\nQuestion: q1\nAnswer: #### 1\n\nQuestion: 2+2?\nAnswer:")
    assert shot.stops == ("\n\nQuestion:",)
    (tmp_path / "cot.txt").write_text("Question: a\nThe answer is 1.\n")
    (text,) = read("gsm8k", data, f"shots.path={tmp_path / 'cot.txt'}")
    assert text.prompt == "Question: a\nThe answer is 1.\n\nQuestion: 2+2?\n"


@pytest.mark.parametrize(
    ("stop", "stops"), [("' Q:'", (" Q:",)), ('["\\n\\nQ:", " Q:"]', ("\n\nQ:", " Q:")), ("[]", ()), ("null", None)]
)
def test_where_a_next_question_begins_is_known_of_a_template_and_of_examples(
    tmp_path: Path, stop: str, stops: tuple[str, ...] | None
) -> None:
    data = lines(tmp_path / "test.jsonl", [{"question": "2+2?", "answer": "#### 4"}])
    (own,) = read("gsm8k", data, "template='Q: {prompt} A:'", f"stop={stop}")
    assert (own.prompt, own.stops) == ("Q: 2+2? A:", stops or ())
    (shot,) = read("gsm8k", data, f"shots.path={data}", f"stop={stop}")
    assert shot.stops == (("\n\nQuestion:",) if stops is None else stops)
    (text, *_) = read("bbh", bbh_folder(tmp_path / "bbh"), f"stop={stop}")
    assert text.stops == (("\n\nQ:",) if stops is None else stops)


def bbh_folder(path: Path) -> Path:
    for task in ("navigate", "ruin_names"):
        lines(path / f"{task}.jsonl.gz", [{"input": f"{task} {n}", "target": "Yes"} for n in range(3)])
        prompts = path / "cot-prompts" / f"{task}.txt"
        prompts.parent.mkdir(exist_ok=True)
        prompts.write_text("canary\n-----\nDo it.\n\nQ: a\nA: So the answer is No.\n\nQ: b\nA: So the answer is Yes.")
    return path


def test_bbh_has_its_own_chain_of_thought(tmp_path: Path) -> None:
    found = read("bbh", bbh_folder(tmp_path), "num_rows=2", "shots.num=1")
    assert [(each.subset, each.index) for each in found] == [
        ("navigate", 0), ("navigate", 1), ("ruin_names", 0), ("ruin_names", 1)
    ]  # fmt: skip
    assert found[1].prompt == (
        "Do it.\n\nQ: a\nA: So the answer is No.\n\nQ: navigate 1\nA: Let's think step by step.\n"
    )
    assert (found[1].references, found[1].stops) == (("Yes",), ("\n\nQ:",))
    (lone, *_) = read("bbh", tmp_path / "navigate.jsonl.gz", "subsets=[navigate]")
    assert lone.prompt.count("Q: ") == 3


STEPS = "Let's think step by step.\nA is it. Q: what? So the answer is"
EXAMPLE = f"Q: a\n(A) x\nA: {STEPS} (B).\n\nQ: b\nA: {STEPS} ] >."


@pytest.mark.parametrize(
    ("examples", "shown"),
    [
        (EXAMPLE, "Q: a\n(A) x\nA: (B)\n\nQ: b\nA: ] >\n\n"),
        ("Q: a\nA: Yes\n\nQ: b\nA: No.", "Q: a\nA: Yes\n\nQ: b\nA: No\n\n"),  # answers alone already
    ],
)
def test_bbh_asks_for_answers_alone_where_that_is_wanted(tmp_path: Path, examples: str, shown: str) -> None:
    data = lines(tmp_path / "navigate.jsonl", [{"input": "c", "target": "Yes"}])
    prompts = tmp_path / "prompts" / "navigate.txt"
    prompts.parent.mkdir()
    prompts.write_text(f"canary\n-----\nDo it.\n\n{examples}\n")
    given = [f"shots.path={tmp_path / 'prompts'}", "shots.style=direct"]
    (direct,) = read("bbh", data, *given)
    assert direct.prompt == f"Do it.\n\n{shown}Q: c\nA:"
    assert direct.stops == ("\n", " Q:")  # the first line, also of a model that writes none
    (none,) = read("bbh", data, *given, "shots.num=0", "stop=[]")
    assert (none.prompt, none.stops) == ("Do it.\n\nQ: c\nA:", ())
    assert read("bbh", data, given[0], "shots.style=cot") == read("bbh", data, given[0])


@pytest.mark.parametrize("example", ["Q: a", "Q: a\nA:", f"Q: a\nA: {STEPS}"])
def test_an_example_without_an_answer_cannot_be_shortened(tmp_path: Path, example: str) -> None:
    data = lines(tmp_path / "navigate.jsonl", [{"input": "c", "target": "Yes"}])
    lines(tmp_path / "cot-prompts" / "x.jsonl", [])
    (tmp_path / "cot-prompts" / "navigate.txt").write_text(f"Do it.\n\n{example}\n")
    assert len(read("bbh", data)) == 1
    with pytest.raises(DataError, match=r"shots\.style: .*navigate\.txt has an example without an answer"):
        read("bbh", data, "shots.style=direct")


def mmlu_row(subject: str, answer: int | str) -> dict[str, Any]:
    return {"subject": subject, "question": f"{subject}?", "choices": ["p", "q", "r"], "answer": answer}


def mmlu_folder(path: Path) -> Path:
    lines(path / "dev.jsonl", [mmlu_row("human_aging", 2), mmlu_row("human_aging", "B"), mmlu_row("law", 0)])
    lines(path / "test.jsonl", [mmlu_row("law", 1), mmlu_row("human_aging", 0), mmlu_row("law", 2)])
    return path


def test_mmlu_puts_examples_of_the_subject_in_front(tmp_path: Path) -> None:
    found = read("mmlu", mmlu_folder(tmp_path))
    assert [(each.subset, each.references) for each in found] == [
        ("law", (" B",)), ("human_aging", (" A",)), ("law", (" C",))
    ]  # fmt: skip
    question = "human_aging?\nA. p\nB. q\nC. r\nAnswer:"
    header = "The following are multiple choice questions (with answers) about human aging.\n\n"
    assert found[1].prompt == f"{header}{question} C\n\n{question} B\n\n{question}"
    assert found[1].options == (" A", " B", " C")
    (only,) = read("mmlu", tmp_path, "subsets=[human_aging]", "shots.num=0")
    assert only.prompt == header + question
    assert [each.index for each in read("mmlu", tmp_path, "num_rows=1")] == [0, 1]


@pytest.mark.parametrize(
    ("task", "rows", "overrides", "problem"),
    [
        ("gsm8k", [{"problem": "x"}], (), "no column 'question', only problem; map it with fields.prompt"),
        ("gsm8k", [{"question": 3}], (), "question must be text or a list of texts, found '3'"),
        ("gsm8k", [{"question": "q", "answer": "none"}], (), "answer has no number to compare with"),
        ("gsm8k", [], (), "is empty"),
        ("mmlu", [mmlu_row("law", 1)], (), "shots.path: examples of mmlu come from"),
        ("mmlu", [mmlu_row("law", 3)], ("shots.num=0",), "needs question (text), choices (2 to 10) and answer"),
        ("mmlu", [mmlu_row("law", 1)], ("shots.num=0", "subsets=[arts]"), "has no arts; it has law"),
        ("bbh", [{"input": "i", "target": "t"}], (), "cannot be read"),
        ("bbh", [{"input": "i", "target": "t"}], ("subsets=[navigate]",), "has no navigate; it has d"),
    ],
)
def test_bad_data_is_told_with_its_place(
    tmp_path: Path, task: str, rows: list[dict[str, Any]], overrides: Sequence[str], problem: str
) -> None:
    data = lines(tmp_path / "d.jsonl", rows)
    with pytest.raises(DataError) as error:
        read(task, data, *overrides)
    assert problem in str(error.value)


def test_missing_files_and_examples_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data: no such file"):
        read("gsm8k", tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"has no dev\.jsonl"):
        read("mmlu", tmp_path)
    with pytest.raises(DataError, match=r"2 examples of human_aging for shots; lower shots\.num"):
        read("mmlu", mmlu_folder(tmp_path), "shots.num=3", "subsets=[human_aging]")
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(DataError, match=r"has no test\.jsonl"):
        read("mmlu", tmp_path)
