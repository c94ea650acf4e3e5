"""Several teachers end to end: routed and mixed runs, what they say of themselves, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gkd_dist.cli import main
from tests import tiny
from tests.tiny_runs import losses, records

SOURCES = ("sums", "words")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a student, two teachers of its tokenizer, and a stranger."""
    folder = tmp_path_factory.mktemp("models")
    tiny.save_causal(folder / "student", seed=1)
    tiny.save_causal(folder / "a", seed=2, num_layers=3)
    tiny.save_causal(folder / "b", seed=3)
    tiny.save_causal(folder / "stranger", seed=4)
    tiny.save_tokenizer(folder / "stranger", ["<pad>", "</s>", "<unk>", *(f"v{n}" for n in range(3, tiny.VOCABULARY))])
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {
            "prompt": " ".join(f"w{3 + (row * 7 + word) % 120}" for word in range(5)),
            "completion": "w7 w8 w9 w10",
            "origin": SOURCES[row % 3 == 0],
        }
        for row in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def several(models: Path, data: Path, combine: str, *extra: str) -> list[str]:
    route = [f"teachers.{name}.sources=[{source}]" for name, source in zip("ab", SOURCES, strict=True)]
    return [
        "tiny",
        f"student.model={models / 'student'}",
        "teacher=null",
        *(
            f"teachers.{name}={{model: '{models / name}', engine: hf, dtype: float32, max_model_len: 256}}"
            for name in "ab"
        ),
        *(route if combine == "route" else []),
        f"objective.combine_teachers={combine}",
        "objective.student_fraction=0.5",
        f"data.path={data}",
        *(["data.fields.source=origin"] if combine == "route" else []),
        "learner.learning_rate=1e-3",
        *extra,
    ]


def one(models: Path, data: Path, *extra: str) -> list[str]:
    return [
        "tiny",
        f"student.model={models / 'student'}",
        f"teacher.model={models / 'a'}",
        f"data.path={data}",
        "learner.learning_rate=1e-3",
        *extra,
    ]


@pytest.mark.parametrize("combine", ["route", "arithmetic", "geometric"])
def test_a_run_with_two_teachers_names_them_everywhere(
    models: Path, data: Path, tmp_path: Path, combine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["teachers.b.weight=3"] if combine != "route" else []
    assert main(["run", *several(models, data, combine, f"output_dir={tmp_path}", *extra)]) == 0
    said = capsys.readouterr().out
    assert "2 teacher(s) (1 a, 1 b)" in said
    assert ("sources: 26 sums, 14 words" in said) == (combine == "route")
    card = (tmp_path / "latest" / "final" / "README.md").read_text()
    for name, part in (
        ("a", "sums" if combine == "route" else "0.25"),
        ("b", "words" if combine == "route" else "0.75"),
    ):
        assert str(models / name) in card and part in card
    assert str(models / "b") in json.loads((tmp_path / "latest" / "summary.json").read_text())["teacher"]
    assert main(["validate", str(tmp_path / "latest" / "config.yaml")]) == 0


def test_a_mixture_of_a_teacher_with_itself_trains_like_that_teacher(models: Path, data: Path, tmp_path: Path) -> None:
    """To 1e-5: float32 sums in another order. Without the score cache, which has the one's answers for the other."""
    uncached = [f"{teacher}.score_cache_bytes=0" for teacher in ("teacher", "teachers.a", "teachers.b")]
    assert main(["run", *one(models, data, f"output_dir={tmp_path / 'one'}", uncached[0])]) == 0
    for combine in ("arithmetic", "geometric"):
        same = (f"teachers.b.model={models / 'a'}", "teachers.b.transport=full", f"output_dir={tmp_path / combine}")
        assert main(["run", *several(models, data, combine, *same, *uncached[1:])]) == 0
        assert losses(tmp_path / combine) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
        read = [[record["scored_tokens"] for record in records(tmp_path / name)] for name in ("one", combine)]
        assert read[1] == [2 * tokens for tokens in read[0]]


def test_routing_every_source_to_one_teacher_trains_like_that_teacher(models: Path, data: Path, tmp_path: Path) -> None:
    """Bit for bit where a batch has rows of one source, to 1e-5 where it is split."""
    assert main(["run", *one(models, data, f"output_dir={tmp_path / 'one'}")]) == 0
    same = (f"teachers.b.model={models / 'a'}", f"output_dir={tmp_path / 'two'}")
    assert main(["run", *several(models, data, "route", *same)]) == 0
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert [record["scored_tokens"] for record in records(tmp_path / "two")] == [
        record["scored_tokens"] for record in records(tmp_path / "one")
    ]


@pytest.mark.ray
@pytest.mark.parametrize("combine", ["route", "geometric"])
def test_ray_gives_the_losses_of_one_process_with_two_teachers(
    models: Path, data: Path, tmp_path: Path, combine: str
) -> None:
    """To 1e-5."""
    for mode in ("local", "ray"):
        extra = (f"cluster.mode={mode}", "cluster.num_cpus_per_teacher=0.25", f"output_dir={tmp_path / mode}")
        assert main(["run", *several(models, data, combine, *extra)]) == 0
    assert losses(tmp_path / "ray") == pytest.approx(losses(tmp_path / "local"), rel=1e-5)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], list[str]]:
    def _refused(arguments: list[str]) -> list[str]:
        assert main(["run", *arguments]) == 2
        return capsys.readouterr().err.splitlines()

    return _refused


def test_sources_that_do_not_fit_the_data_are_named(
    models: Path, data: Path, refused: Callable[[list[str]], list[str]]
) -> None:
    assert refused(several(models, data, "route", "teachers.b.sources=[word]")) == [
        "error: teachers.b.sources: no row comes from 'word'; did you mean 'words'?",
        "error: teachers: no teacher has the source of 14 row(s) ('words'); add it to the sources of a teacher, "
        "or take these rows out of the data",
    ]
    (line,) = refused(several(models, data, "route", "data.fields.source=null"))
    assert line.startswith("error: data.fields.source: required with objective.combine_teachers=route")


def test_every_teacher_that_will_not_do_is_named_by_its_key(
    models: Path, data: Path, tmp_path: Path, refused: Callable[[list[str]], list[str]]
) -> None:
    lines = refused(several(models, data, "arithmetic", f"teachers.a.model={tmp_path}", "teachers.b.model=./none"))
    assert [line.split(": ")[1] for line in lines] == ["teachers.a.model", "teachers.b.model"]
    (line,) = refused(several(models, data, "arithmetic", f"teachers.b.model={models / 'stranger'}"))
    assert line.startswith("error: teachers.b.model: the tokenizers of ")
    (line,) = refused(several(models, data, "arithmetic", "teachers.b.max_model_len=9000"))
    assert line.startswith("error: teachers.b.max_model_len: 9000 is more than the 512 positions")


@pytest.mark.ray
def test_teachers_that_the_cluster_has_no_room_for_are_counted(
    models: Path, data: Path, refused: Callable[[list[str]], list[str]], tmp_path: Path
) -> None:
    extra = ("cluster.mode=ray", "teachers.a.num_replicas=3000", f"output_dir={tmp_path}")
    lines = refused(several(models, data, "arithmetic", *extra))
    assert "3001 teacher(s)" in lines[-1] and "num_replicas of a teacher" in lines[-1]
