"""Records to frames and back (floor F2).

    frame = encode(trajectories)             # [n] uint8: ship it through Ray, or write it to a file
    trajectories = decode(frame, Trajectory)  # arrays are read-only views of `frame`

Both directions make the same checks, so that a bad record is found where it was made. Every failure is a WireError
whose reason is in `frames.REASONS`.
"""

from collections.abc import Sequence
from typing import TypeVar

from gkd_dist.errors import WireError
from gkd_dist.targets import TeacherTargets
from gkd_dist.types import ByteArray
from gkd_dist.wire.frames import DEFAULT_MAX_FRAME_BYTES, Buffer
from gkd_dist.wire.message import MAX_ITEMS, MessageReader, MessageWriter
from gkd_dist.wire.schemas import SCHEMAS, TARGETS_SCHEMA, Schema

R = TypeVar("R")


def encode(records: Sequence[object], *, out: bytearray | None = None) -> ByteArray:
    """[n] uint8: one frame with `records`.

    Args:
        records: at least one, all of one kind: Prompt, Trajectory, teacher targets of any kind (which may be mixed),
            ScoredTrajectory, TrainBatch, WeightManifest, StepReport or DivergenceReport. Targets must be concrete, not
            handles.
        out: see `frames.encode_frame`.

    Raises:
        WireError: `kind` for other types, `record` and `value` for records that cannot be sent.
    """
    if not 0 < len(records) <= MAX_ITEMS:
        raise WireError("record", f"a message holds 1 to {MAX_ITEMS} records, got {len(records)}")
    schema = _schema_of(type(records[0]))
    message = MessageWriter()
    schema.column.write("", records, message)
    return message.frame(schema.kind, schema.version, len(records), out)


def decode(buffer: Buffer, record_type: type[R], *, max_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> list[R]:
    """The records in `buffer`, in the order in which they were encoded; their arrays are read-only views of it.

    Args:
        buffer: exactly one frame, as uint8 array, bytes, bytearray or memoryview.
        record_type: what the caller expects. A kind of teacher targets refuses a message that holds another;
            `decode_targets` takes all.
        max_bytes: longer frames are refused before anything is read. The writer has no limit: raise this one where
            messages of full log-probs are expected to be longer.

    Raises:
        WireError: when `buffer` is not exactly that.
    """
    records = _decode(buffer, _schema_of(record_type), max_bytes)
    for record in records:
        if not isinstance(record, record_type):
            raise WireError("kind", f"holds {type(record).__name__}, expected {record_type.__name__}")
    return records  # type: ignore[return-value]  # checked one by one above


def decode_targets(buffer: Buffer, *, max_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> list[TeacherTargets]:
    """`decode` for a message of teacher targets of any kind."""
    return _decode(buffer, TARGETS_SCHEMA, max_bytes)  # type: ignore[return-value]  # the schema makes nothing else


def _decode(buffer: Buffer, schema: Schema, max_bytes: int) -> list[object]:
    message = MessageReader(buffer, max_bytes)
    count = message.expect(schema.kind, schema.version)
    records: list[object] = schema.column.read("", count, message)
    message.finish()
    return records


def _schema_of(record_type: type) -> Schema:
    schema = SCHEMAS.get(record_type)
    if schema is None:
        raise WireError(
            "kind", f"{record_type.__name__} has no wire format; use one of {[c.__name__ for c in SCHEMAS]}"
        )
    return schema
