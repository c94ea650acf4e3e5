import gzip
import json
import logging
import os
import weakref
from pathlib import Path

import pytest
from pydantic import ValidationError

from gkd_dist.config.data import DataConfig
from gkd_dist.data.faults import Faults
from gkd_dist.data.readers import NUM_EMBEDDED, read_rows
from gkd_dist.data.rows import Message, Row
from gkd_dist.errors import DataError

PAIR = {"prompt": "How many?", "completion": "Four."}
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "How many?"},
    {"role": "assistant", "content": "Four."},
]


def write(path, *records):
    """JSON lines; a str record is written as it is."""
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return str(path)


def read(path, **options):
    return read_rows(DataConfig(path=str(path), **options))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "train.jsonl"


def test_embedded_problems_are_the_default():
    rows = read_rows(DataConfig(num_held_out=10))
    assert (len(rows), rows.format) == (NUM_EMBEDDED + 10, "prompt+completion")
    assert rows.has_completions and "#### " in rows.rows[0].completion
    assert str(rows) == "2010 rows of format prompt+completion from the embedded word problems"
    fewer = read_rows(DataConfig(num_held_out=10, num_train=30))
    assert fewer.rows == rows.rows[:40]


@pytest.mark.parametrize(
    ("record", "format_name", "row"),
    [
        ({"prompt": "How many?"}, "prompt", Row("How many?")),
        (PAIR, "prompt+completion", Row("How many?", "Four.")),
        ({"prompt": TURNS[:1]}, "prompt", Row((Message("user", "Hi"),))),
        ({"prompt": TURNS[:1], "completion": TURNS[1:2]}, "prompt+completion", Row((Message("user", "Hi"),), "Hello")),
        (
            {"messages": TURNS},
            "messages",
            Row((Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "How many?")), "Four."),
        ),
        ({"messages": TURNS[:3]}, "messages", Row((Message("user", "Hi"),), "Hello")),
        (PAIR | {"messages": TURNS}, "prompt+completion", Row("How many?", "Four.")),
        ({"prompt": "topic", "messages": TURNS[:2]}, "messages", Row((Message("user", "Hi"),), "Hello")),
    ],
)
def test_format_is_detected_from_the_columns(file, record, format_name, row):
    rows = read(write(file, record))
    assert (rows.format, rows.rows, rows.source) == (format_name, (row,), str(file))


def test_fields_map_columns(file):
    path = write(file, {"question": "How many?", "answer": "Four.", "chat": TURNS[:2]})
    pair = read(path, fields={"prompt": "question", "completion": "answer"})
    assert (pair.format, pair.rows) == ("prompt+completion", (Row("How many?", "Four."),))
    alone = read(path, fields={"prompt": "question"})
    assert (alone.format, alone.rows, alone.has_completions) == ("prompt", (Row("How many?"),), False)
    assert read(path, fields={"messages": "chat"}).rows == (Row((Message("user", "Hi"),), "Hello"),)


def test_source_is_read_only_where_a_column_is_named(file):
    path = write(file, PAIR | {"source": "a"}, PAIR | {"source": "b"}, PAIR | {"source": "a"}, PAIR | {"source": None})
    assert read(path).sources == {}
    rows = read(path, fields={"source": "source"})
    assert [row.source for row in rows.rows] == ["a", "b", "a"]
    assert (rows.format, rows.sources, rows.num_skipped) == ("prompt+completion", {"a": 2, "b": 1}, {"empty source": 1})
    talk = write(file, {"messages": TURNS, "from": "chats"})
    assert read(talk, fields={"source": "from"}).sources == {"chats": 1}


def test_a_source_that_is_no_text_is_named(file):
    with pytest.raises(DataError, match=r"train\.jsonl:1: source: must be text, found int"):
        read(write(file, PAIR | {"source": 3}), fields={"source": "source"})


def test_gzip_blank_lines_and_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(PAIR).encode() + b"\n\n" + json.dumps(PAIR).encode()))
    assert len(read(path)) == 2


def test_parquet_is_read_with_nested_messages(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": TURNS}, {"messages": None}]), path)
    rows = read(path)
    assert (rows.format, len(rows), rows.num_skipped) == ("messages", 1, {"no assistant message": 1})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"prompt": 5}]), path)
    with pytest.raises(DataError, match=r"train\.parquet: row 1: prompt: must be text or .*, found int"):
        read(path)


def test_rows_with_empty_cells_are_skipped_and_counted(file):
    path = write(file, PAIR, PAIR | {"prompt": " "}, PAIR | {"completion": None}, PAIR | {"completion": ""})
    rows = read(path)
    assert len(rows) == 1
    assert rows.num_skipped == {"empty prompt": 1, "empty completion": 2}
    assert str(rows).endswith("train.jsonl, 2 skipped (empty completion), 1 skipped (empty prompt)")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([PAIR, "{'prompt': 1}"], r"train\.jsonl:2: not valid JSON: .* at column 2; .* one JSON object per line"),
        ([PAIR, "", "[1]"], r"train\.jsonl:3: a row must be a JSON object, found list"),
        ([PAIR, {"prompt": 3, "completion": "x"}], r"train\.jsonl:2: prompt: must be text or .*, found int"),
        (
            [PAIR, {"prompt": "x", "completion": {"a": 1}}],
            r"train\.jsonl:2: completion: must be .*, found dict",
        ),
        ([PAIR, {"prompt": "x"}], r"train\.jsonl:2: no column 'completion', only prompt; map it"),
        (
            [{"prompt": "x", "completion": TURNS}],
            r"one assistant message, found roles user, assistant, user",
        ),
        ([{"prompt": [{"role": "user"}]}], r"train\.jsonl:1: prompt: the content of message 1 \(user\) must be text"),
        (
            [{"prompt": ["Hi"]}],
            r"train\.jsonl:1: prompt: message 1 must be an object .*, found 'Hi'",
        ),
        ([{"messages": "Hi"}], r"train\.jsonl:1: messages: must be a list of messages, found str"),
        ([{"messages": TURNS[:1]}], r"none of the 1 rows .* 1 with no assistant message; they were read as messages"),
        ([{"messages": TURNS[1:2]}], r"1 with nothing before the assistant message"),
        ([{"prompt": ""}, {"prompt": []}], r"none of the 2 rows .* can be used: 2 with empty prompt"),
        (
            [{"question": "x", "answer": "y"}],
            r"train\.jsonl:1: no column named prompt .* only question, answer",
        ),
        ([{}], r"no column named prompt or messages, only no columns at all"),
        ([], r"train\.jsonl is empty"),
        (["", " "], r"train\.jsonl is empty"),
    ],
)
def test_bad_rows_are_named_with_file_and_line(file, lines, message):
    with pytest.raises(DataError, match=message):
        read(write(file, *lines))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"prompt": "questoin"},
            r"train\.jsonl:1: no column 'questoin', .*; did you mean question\?",
        ),
        ({"prompt": "question", "completion": "reply"}, r"no column 'reply', only question, answer; map it"),
        ({"completion": "answer"}, r"no column 'prompt'"),
        ({"messages": "chat"}, r"no column 'chat'"),
        ({"messages": "chat", "prompt": "question"}, r"either messages, or prompt"),
        ({"prompt": "question", "source": "questions"}, r"no column 'questions', .*; did you mean question\?"),
    ],
)
def test_wrong_fields_name_the_columns_there_are(file, fields, message):
    with pytest.raises(DataError, match=message):
        read(write(file, {"question": "x", "answer": "y"}), fields=fields)


def test_fields_without_a_path_are_refused():
    with pytest.raises(DataError, match=r"data\.path is not set"):
        read_rows(DataConfig(fields={"prompt": "question"}))


def test_undecodable_and_damaged_files_say_where(tmp_path):
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"latin\.jsonl:2: not UTF-8 \(byte 16"):
        read(latin)
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(os.urandom(2_000))[:-20])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz"):
        read(cut)
    plain = tmp_path / "plain.jsonl.gz"
    plain.write_bytes(b'{"prompt": "a"}\n')
    with pytest.raises(DataError, match=r"plain\.jsonl\.gz: damaged gzip"):
        read(plain)
    table = tmp_path / "table.parquet"
    table.write_bytes(b"no table")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read(table)


@pytest.mark.parametrize(
    "name", ["missing.jsonl", "./data/train", "/no/such/place", "a/b/c", "train.parquet", "x.JSONL"]
)
def test_missing_file_is_not_looked_for_on_the_hub(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gkd_dist.data.sources._hub_records", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match="no such file"):
        read(name)


def test_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)


def test_hub_names_go_through_datasets(monkeypatch):
    datasets = pytest.importorskip("datasets")
    calls = []

    def load_dataset(*args, **options):
        calls.append((args, options))
        return [PAIR, {"prompt": 1, "completion": "x"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"openai/gsm8k\[test\]: row 2: prompt"):
        read("openai/gsm8k:main", split="test")
    assert calls == [(("openai/gsm8k", "main"), {"split": "test"})]


def test_hub_out_of_reach_says_what_to_do(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(*args, **options):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"gsm8k is not a file here.*Couldn't reach the Hub.*download the data"):
        read("gsm8k")


def test_real_gsm8k_is_read():
    folder = os.environ.get("GKD_DATA_DIR")
    if not folder or not (Path(folder) / "gsm8k" / "train.jsonl.gz").exists():
        pytest.skip("GKD_DATA_DIR does not name a folder with gsm8k/train.jsonl.gz")
    rows = read(Path(folder) / "gsm8k" / "train.jsonl.gz", fields={"prompt": "question", "completion": "answer"})
    assert len(rows) == 7_473
    assert all("#### " in row.completion for row in rows.rows)


def test_a_dot_leads_into_nested_objects(file):
    record = {"translation": {"en": "a dog", "de": "ein Hund"}, "x.y": "plain"}
    rows = read(write(file, record), fields={"prompt": "translation.en", "completion": "translation.de"})
    assert rows.rows == (Row("a dog", "ein Hund"),)
    assert read(write(file, record), fields={"prompt": "x.y"}).rows == (Row("plain"),)
    with pytest.raises(DataError, match=r"train.jsonl:1: translation: no column 'fr', only en, de"):
        read(write(file, record), fields={"prompt": "translation.fr"})


def test_a_template_is_put_around_every_prompt(file):
    rows = read(write(file, PAIR, {"prompt": "{x}", "completion": "y"}), prompt_template="Q: {prompt}\nA: {")
    assert [row.prompt for row in rows.rows] == ["Q: How many?\nA: {", "Q: {x}\nA: {"]
    assert [row.completion for row in rows.rows] == ["Four.", "y"]
    embedded = read_rows(DataConfig(num_held_out=1, num_train=1, prompt_template="Q: {prompt}"))
    assert all(row.prompt.startswith("Q: ") for row in embedded.rows)
    with pytest.raises(DataError, match="lists of messages"):
        read(write(file, {"messages": TURNS}), prompt_template="Q: {prompt}")


def test_word_problems_were_written_by_no_teacher():
    with pytest.raises(ValidationError, match="no teacher wrote the embedded word problems"):
        DataConfig(written_by="teacher")


def test_each_of_several_completions_is_a_row(file):
    record = {"prompt": "How many?", "completions": ["Four.", "Five."]}
    rows = read(write(file, record, {"prompt": "x", "completions": ["y"]}), fields={"completion": "completions"})
    assert rows.rows == (Row("How many?", "Four."), Row("How many?", "Five."), Row("x", "y"))
    with pytest.raises(DataError, match="message 2 must be an object"):
        read(write(file, {"prompt": "x", "completion": [TURNS[1], "y"]}))


def test_completions_that_the_length_limit_cut_are_left_out(file):
    """Trained on, they would teach an end where there was none."""
    records = [
        {"prompt": "a", "completions": ["whole", "cut"], "truncated": [False, True]},
        {"prompt": "b", "completions": ["cut"], "truncated": [True]},
    ]
    rows = read(write(file, *records), fields={"completion": "completions"})
    assert rows.rows == (Row("a", "whole"),)
    assert rows.num_skipped == {"cut off by the length limit": 2}
    with pytest.raises(DataError, match=r"none of the 1 rows .* 1 with cut off by the length limit"):
        read(write(file, records[1]), fields={"completion": "completions"})


def test_an_empty_completion_leaves_the_others_of_its_record(file):
    record = {"prompt": "a", "completions": ["whole", " ", "cut"], "truncated": [False, False, True]}
    rows = read(write(file, record), fields={"completion": "completions"})
    assert rows.rows == (Row("a", "whole"),)
    assert rows.num_skipped == {"empty completion": 1, "cut off by the length limit": 1}


@pytest.mark.parametrize(
    ("truncated", "found"),
    [([True], "1 of them"), ([], "0 of them"), ([0, "false"], r"\[0, 'false'\]"), (True, "True")],
)
def test_a_column_that_does_not_say_which_completion_was_cut_is_refused(file, truncated, found):
    record = {"prompt": "a", "completions": ["one", "two"], "truncated": truncated}
    with pytest.raises(DataError, match=rf"train\.jsonl:1: truncated must be .* of the 2 completions, found {found}; "):
        read(write(file, record), fields={"completion": "completions"})
    rows = read(write(file, record | {"truncated": None}), fields={"completion": "completions"})
    assert len(rows) == 2


def test_a_text_beside_a_column_truncated_of_its_own_is_read(file):
    assert len(read(write(file, PAIR | {"truncated": True}, PAIR | {"truncated": "no"}))) == 2


def test_what_is_unwanted_is_taken_out_of_completions(file):
    answer = {"prompt": "<<1>>", "completion": "48/2 = <<48/2=24>>24<|end|>"}
    rows = read(write(file, answer, {"prompt": "x", "completion": "<|end|>"}), strip=r"<<[^>]*>>|<\|end\|>")
    assert rows.rows == (Row("<<1>>", "48/2 = 24"),)
    assert rows.num_skipped == {"nothing left of the completion": 1}
    with pytest.raises(DataError, match="nothing is left of any completion"):
        read(write(file, PAIR), strip=".*")
    with pytest.raises(ValidationError, match="must be a regular expression"):
        DataConfig(strip="(")


@pytest.mark.parametrize("bad", ["{broken", {"prompt": 7, "completion": "Four."}])
def test_several_bad_rows_are_told_together(file, bad):
    path = write(file, PAIR, bad, PAIR, bad, bad, bad)
    with pytest.raises(DataError) as caught:
        read(path)
    *shown, rest = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in shown] == ["2", "4", "5"]
    assert rest == "1 more rows are refused too, 4 in all"


class Text(str):
    """One that can be watched."""


def test_of_any_number_of_faults_three_are_kept():
    faults, alive = Faults(), weakref.WeakSet()
    for number in range(1000):
        text = Text(f"{number}: bad")
        alive.add(text)
        faults.add(text)
    del text
    assert len(alive) == 3 and len(faults) == 1000
    assert str(faults).endswith("2: bad\n997 more rows are refused too, 1000 in all")


@pytest.mark.parametrize("bad", ["{broken", {"prompt": 7, "completion": "Four."}])
def test_a_file_of_bad_rows_keeps_no_text_of_each(file, bad, monkeypatch):
    """Also where the reader of rows meets them, and where that of lines does."""
    made, alive = DataError, weakref.WeakSet()

    class WatchedError(DataError):
        def __str__(self):
            text = Text(super().__str__())
            alive.add(text)
            most.append(len(alive))
            return text

    most = []
    for module in ("sources", "formats"):
        monkeypatch.setattr(f"gkd_dist.data.{module}.DataError", WatchedError)
    with pytest.raises(made):
        read(write(file, PAIR, *[bad] * 50))
    assert max(most) <= 5 and len(most) >= 50


def test_a_hub_that_does_not_answer_is_told_in_one_line(monkeypatch):
    import datasets

    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach it\nand more of this")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError) as caught:
        read("some/rows")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("data.path: some/rows is not a file here") and "Couldn't reach it" in line
    assert not logging.getLogger("huggingface_hub.utils").isEnabledFor(logging.WARNING)
