"""What is wrong with the elements of an array, in words; None where nothing is (floor F0). No array may be empty."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

LOG_PROB_TOLERANCE_NATS = 1e-3
"""How far above 0 rounding may lift a log-prob: float32 log-softmax errs by about 1e-6, bfloat16 logits by more."""

STRETCH_BYTES = 256 * 1024
"""Short enough that what was read or written stays in a core's second cache until it is read again."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def stretches(elements: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """`elements` ([n]) end to end, in views of at most `STRETCH_BYTES`."""
    longest = STRETCH_BYTES // elements.itemsize
    for start in range(0, elements.size, longest):
        yield elements[start : start + longest]


def negative_ids(token_ids: npt.NDArray[Any]) -> str | None:
    return None if token_ids.min() >= 0 else "token ids must not be negative"


def bad_log_probs(log_probs: npt.NDArray[Any]) -> str | None:
    # min and max pass a NaN on, and every comparison with it is false: no temporary array is needed
    if -_FLOAT32_MAX <= log_probs.min() <= log_probs.max() <= LOG_PROB_TOLERANCE_NATS:
        return None
    return f"log-probs must be finite and at most {LOG_PROB_TOLERANCE_NATS}"


def not_finite(numbers: npt.NDArray[Any]) -> str | None:
    return None if -_FLOAT32_MAX <= numbers.min() <= numbers.max() <= _FLOAT32_MAX else "must be finite"


def not_finite_bfloat16(bits: npt.NDArray[Any]) -> str | None:
    # Infinities and NaNs are the bits from 0x7F80 and, with the sign, from 0xFF80 on. Read as signed numbers the first
    # are the largest, read as unsigned numbers the second: two maxima, no temporary array.
    return None if bits.view(np.int16).max() < 0x7F80 and bits.max() < 0xFF80 else "must be finite (bfloat16 bits)"


def not_finite_float16(bits: npt.NDArray[Any]) -> str | None:
    # As above, with five bits of exponent.
    return None if bits.view(np.int16).max() < 0x7C00 and bits.max() < 0xFC00 else "must be finite (float16 bits)"
