"""Records survive the wire unchanged; whatever does not make a record is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_examples import (
    RECORDS,
    bfloat16_targets,
    fixed_trajectory,
    full_targets,
    golden_records,
    same,
    scored_trajectories,
    student_trajectory,
)

from gkd_dist.errors import WireError
from gkd_dist.targets import FullTargets, HiddenTargets, TargetsHandle, TeacherTargets
from gkd_dist.types import (
    DivergenceReport,
    FinishReason,
    Prompt,
    SampleId,
    ScoredTrajectory,
    StepReport,
    TeacherScore,
    TensorEntry,
    Trajectory,
    WeightManifest,
)
from gkd_dist.wire.codec import decode, decode_targets, encode
from gkd_dist.wire.frames import decode_frame, encode_frame
from gkd_dist.wire.message import MAX_ITEMS

GOLDEN = Path(__file__).parents[2] / "golden" / "wire"


def read(frame: Any, record: object) -> list[Any]:
    if isinstance(record, TeacherTargets):
        return list(decode_targets(frame))
    return decode(frame, type(record))


def rewritten(frame: Any, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> np.ndarray:
    """`frame` taken apart, changed by `change(header, arrays by path)`, and put together again with a right seal."""
    header, arrays = decode_frame(frame)
    by_path = dict(zip(header["sections"], [array.copy() for array in arrays], strict=True))
    change(header, by_path)
    return encode_frame(header, list(by_path.values()))


def refused(frame: Any, record_type: type = Trajectory) -> str:
    with pytest.raises(WireError) as caught:
        decode(frame, record_type)
    return caught.value.reason


@pytest.mark.parametrize("kind", RECORDS)
def test_records_come_back_bit_for_bit(kind: str) -> None:
    @settings(max_examples=25, deadline=None)
    @given(st.lists(RECORDS[kind], min_size=1, max_size=3))
    def round_trip(records: list[Any]) -> None:
        frame = encode(records)
        assert same(read(frame, records[0]), records)
        assert encode(read(frame, records[0])).tobytes() == frame.tobytes()

    round_trip()


@pytest.mark.parametrize("name", golden_records())
def test_golden_file_is_what_is_written_and_reads_back(name: str) -> None:
    stored = (GOLDEN / f"{name}.bin").read_bytes()
    records = golden_records()[name]
    assert encode(records).tobytes() == stored
    assert same(read(stored, records[0]), list(records))


def test_every_golden_file_belongs_to_a_record_kind() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(golden_records())


def test_decoded_arrays_are_read_only_views_of_the_buffer() -> None:
    frame = encode([bfloat16_targets(), bfloat16_targets()])
    for targets in decode(frame, HiddenTargets):
        assert np.shares_memory(targets.hidden, frame)
        assert not targets.hidden.flags.writeable
        with pytest.raises(ValueError):
            targets.hidden.flags.writeable = True


def test_mixed_widths_and_dtypes_share_a_message() -> None:
    records = [HiddenTargets(np.ones((2, 3), np.float32)), HiddenTargets(np.ones((1, 5), np.uint16)), full_targets()]
    assert same(decode_targets(encode(records)), records)


def test_number_of_sections_does_not_grow_with_the_records() -> None:
    few, many = (decode_frame(encode(scored_trajectories() * count))[0] for count in (1, 50))
    assert few["sections"] == many["sections"]
    many["values"]["reward"] = many["values"]["reward"][:1]  # the only column of floats: they live in the header
    assert few["values"] == many["values"]


def test_out_is_reused() -> None:
    out = bytearray(100_000)
    first = encode([student_trajectory()], out=out).tobytes()
    second = encode([fixed_trajectory()], out=out)
    assert np.shares_memory(second, np.frombuffer(out, np.uint8))
    assert first == encode([student_trajectory()]).tobytes()
    assert second.tobytes() == encode([fixed_trajectory()]).tobytes()


def test_concrete_target_types_refuse_each_other() -> None:
    mixed = encode([bfloat16_targets(), full_targets()])
    assert refused(mixed, HiddenTargets) == "kind"
    assert refused(mixed, FullTargets) == "kind"
    assert [type(targets) for targets in decode_targets(mixed)] == [HiddenTargets, FullTargets]


def test_another_kind_is_refused() -> None:
    assert refused(encode([student_trajectory()]), Prompt) == "kind"
    assert refused(encode([student_trajectory()]), DivergenceReport) == "kind"


def test_handle_is_refused_with_what_to_do() -> None:
    record = ScoredTrajectory(student_trajectory(), (TeacherScore("large", TargetsHandle(None, 0, 4, 24)),))
    with pytest.raises(WireError, match="fetch what it stands for") as caught:
        encode([record])
    assert caught.value.reason == "record"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.01])
def test_bad_log_probs_are_refused_on_both_sides(bad: float) -> None:
    trajectory = student_trajectory()
    frame = encode([trajectory])

    def spoil(_: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays["behaviour_log_probs"][2] = bad

    assert refused(rewritten(frame, spoil)) == "value"
    spoilt = np.array([-1, -1, bad, -1], np.float32)
    with pytest.raises(WireError, match="behaviour_log_probs: log-probs must be finite"):
        encode([replace(trajectory, behaviour_log_probs=spoilt)])
    with pytest.raises(WireError, match="value"):
        encode([FullTargets(spoilt.reshape(2, 2))])


def test_rounding_above_zero_is_allowed() -> None:
    trajectory = replace(student_trajectory(), behaviour_log_probs=np.full(4, 1e-6, np.float32))
    assert same(decode(encode([trajectory]), Trajectory), [trajectory])


@pytest.mark.parametrize("bits", [0x7F80, 0x7FC0, 0x7FFF, 0xFF80, 0xFFC1, 0xFFFF])
def test_infinities_and_nans_in_bfloat16_bits_are_refused(bits: int) -> None:
    with pytest.raises(WireError, match="finite"):
        encode([HiddenTargets(np.array([[0x3F80, bits]], np.uint16))])


@pytest.mark.parametrize("bits", [0x7F7F, 0xFF7F, 0x8000, 0x0001])
def test_extreme_finite_bfloat16_bits_are_allowed(bits: int) -> None:
    (back,) = decode(encode([HiddenTargets(np.array([[0x3F80, bits]], np.uint16))]), HiddenTargets)
    assert back.hidden.tolist() == [[0x3F80, bits]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_hidden_states_must_be_finite(bad: float) -> None:
    with pytest.raises(WireError, match="finite"):
        encode([HiddenTargets(np.array([[1.0, bad]], np.float32))])


def set_item(path: str, position: Any, value: Any) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    def change(_: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays[path][position] = value

    return change


def set_header(value: Any, *keys: str) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    def change(header: dict[str, Any], _: dict[str, np.ndarray]) -> None:
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_item("prompt_ids", 0, -1), "value"),
        (set_item("attempt", 0, -1), "value"),
        (set_item("prompt_ids.shape", (0, 0), 4), "section"),
        (set_item("prompt_ids.shape", (0, 0), -1), "section"),
        (set_item("prompt_ids.shape", (0, 0), 2**62), "section"),
        (set_item("prompt_ids.shape", slice(None), [[5], [-1]]), "section"),  # the sum is right
        (set_item("versions.oldest", 0, 9), "record"),  # newer than the newest
        (set_item("versions.present", 0, 2), "value"),
        (set_item("versions.present", 0, 0), "section"),
        (set_item("versions.present", 1, 1), "section"),
        (set_item("source", 0, 2), "record"),
        (set_item("source", 0, -1), "record"),
        (set_item("source", 0, 1), "record"),  # all ground truth: STUDENT is not used
        (set_header(["student", "nobody"], "values", "source"), "value"),
        (set_header(["student", "student"], "values", "source"), "record"),
        (set_header(["ground_truth", "student"], "values", "source"), "record"),  # log-probs without sampling
        (set_header(["student", 3], "values", "source"), "record"),
        (set_header("student", "values", "source"), "record"),
        (set_header(["line\nbreak"], "values", "sample_id.run"), "value"),
        (set_header([""], "values", "sample_id.run"), "value"),
        (set_header(["x" * 2000], "values", "sample_id.run"), "value"),
        (set_header([], "values", "extra"), "record"),
        (set_header({}, "values"), "record"),
        (set_header([], "values"), "header"),
        (set_header({}, "sections"), "header"),
        (set_header([], "sections"), "section"),
        (set_header("prompt", "kind"), "kind"),
        (set_header(None, "kind"), "kind"),
        (set_header(2, "schema"), "schema"),
        (set_header(True, "schema"), "schema"),
        (set_header(0, "schema"), "schema"),
        (set_header(3, "count"), "section"),
        (set_header(1, "count"), "section"),
        (set_header(0, "count"), "record"),
        (set_header(-1, "count"), "record"),
        (set_header(2**60, "count"), "record"),
        (set_header(2.0, "count"), "record"),
        (set_header(1, "extra"), "header"),
    ],
)
def test_forged_messages_are_refused(change: Callable[..., None], reason: str) -> None:
    frame = encode([student_trajectory(), fixed_trajectory()])
    decode(rewritten(frame, lambda header, arrays: None), Trajectory)
    assert refused(rewritten(frame, change)) == reason


def test_sections_must_be_those_of_the_schema() -> None:
    header, arrays = decode_frame(encode([student_trajectory()]))
    paths = header["sections"]
    assert refused(encode_frame(header | {"sections": paths[:-1]}, arrays[:-1])) == "section"
    assert refused(encode_frame(header | {"sections": [*paths, "more"]}, [*arrays, arrays[0]])) == "record"
    assert refused(encode_frame(header | {"sections": paths[::-1]}, arrays[::-1])) == "section"
    narrow = [array.astype(np.int32) if array.dtype == np.int64 else array for array in arrays]
    assert refused(encode_frame(header, narrow)) == "section"


def test_sections_are_told_apart_by_path() -> None:
    header, arrays = decode_frame(encode([replace(student_trajectory(), prompt_ids=np.arange(4, dtype=np.int32))]))
    swapped = {"prompt_ids": "completion_ids", "completion_ids": "prompt_ids"}
    paths = [swapped.get(path, path) for path in header["sections"]]
    assert refused(encode_frame(header | {"sections": paths}, arrays)) == "section"


def test_text_twice_in_the_header_is_refused() -> None:
    frame = encode([student_trajectory(), fixed_trajectory()])

    def repeat(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        header["values"]["sample_id.run"] *= 2
        arrays["sample_id.run"][:] = [0, 1]

    assert refused(rewritten(frame, repeat)) == "record"


def test_lengths_whose_product_wraps_around_are_refused() -> None:
    frame = encode([bfloat16_targets(), bfloat16_targets()])
    wrapped = set_item("hidden_bfloat16.hidden.shape", slice(None), [[24, 1], [2**32, 2**32]])
    assert refused(rewritten(frame, wrapped), HiddenTargets) == "section"


def test_long_lists_are_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = TensorEntry("w", "float32", (1,) * (MAX_ITEMS + 1), 0, 0, 4)
    manifest = WeightManifest(0, "a", (entry,), (4,), ("0" * 32,))
    with pytest.raises(WireError, match=r"tensors\.shape: counts"):
        encode([manifest])
    monkeypatch.setattr("gkd_dist.wire.nesting.MAX_ITEMS", MAX_ITEMS + 1)
    frame = encode([manifest])
    monkeypatch.undo()
    assert refused(frame, WeightManifest) == "value"


def test_targets_that_do_not_cover_the_completion_are_refused() -> None:
    frame = encode(scored_trajectories())

    def reshape(_: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays["scores.targets.hidden_bfloat16.hidden.shape"][0] = (3, 4)

    assert refused(rewritten(frame, reshape), ScoredTrajectory) == "record"


def test_key_twice_in_the_seconds_of_a_report_is_refused() -> None:
    frame = encode(golden_records()["step_report_v2"])

    def repeat(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        header["values"]["seconds.keys"] = ["forward"]
        arrays["seconds.keys"][:] = 0

    assert refused(rewritten(frame, repeat), StepReport) == "record"


def test_counts_of_a_list_are_bounded_before_anything_is_made() -> None:
    frame = encode(golden_records()["weight_manifest_v1"])
    for count in (-1, 2**62, 1):
        assert refused(rewritten(frame, set_item("tensors.count", 0, count)), WeightManifest) in {"value", "section"}


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], "record"),
        ([student_trajectory(), full_targets()], "record"),
        ([object()], "kind"),
        ([replace(student_trajectory(), attempt=-1)], "value"),
        ([replace(student_trajectory(), attempt=1.5)], "value"),
        ([replace(student_trajectory(), attempt=2**63)], "value"),
        ([replace(student_trajectory(), sample_id=None)], "record"),
        ([replace(student_trajectory(), sample_id=SampleId("", 0))], "value"),
        ([replace(student_trajectory(), sample_id=SampleId("\ud800", 0))], "value"),
        ([replace(student_trajectory(), sample_id=SampleId(3, 0))], "value"),  # type: ignore[arg-type]
        ([replace(student_trajectory(), finish_reason="stop")], "value"),
        ([replace(student_trajectory(), finish_reason=[FinishReason.STOP])], "value"),
        ([ScoredTrajectory(student_trajectory(), (TeacherScore(None, bfloat16_targets()),))], "value"),  # type: ignore[arg-type]
        ([WeightManifest(0, "a", (), (1,), ("0" * 31,))], "value"),
        ([WeightManifest(0, "a", (), (1,), ("0" * 32 + "\n",))], "value"),
        ([WeightManifest(0, "a", (TensorEntry("w", "int8", (1,), 0, 0, 1),), (1,), ("0" * 32,))], "value"),
        ([WeightManifest(0, "a", None, (), ())], "record"),  # type: ignore[arg-type]
        ([StepReport(0, 1, 0.0, 0.0, float("nan"), 1, 1)], "value"),
        ([StepReport(0, 1, "x", 0.0, 0.1, 1, 1)], "value"),  # type: ignore[arg-type]
        ([StepReport(0, 1, 0.0, 0.0, 0.1, 1, 1, 0, None)], "record"),  # type: ignore[arg-type]
        ([StepReport(0, 1, 0.0, 0.0, 0.1, 1, 1, 2)], "value"),
    ],
)
def test_records_that_cannot_be_sent_are_refused_where_they_were_made(records: list[Any], reason: str) -> None:
    with pytest.raises(WireError) as caught:
        encode(records)
    assert caught.value.reason == reason
