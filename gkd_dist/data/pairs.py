"""Fixed pairs: a prompt with its reference completion as a trajectory (floor F2)."""

from gkd_dist.types import FinishReason, IntArray, SampleId, Source, Trajectory


def fixed_trajectory(
    sample_id: SampleId,
    prompt_ids: IntArray,
    completion_ids: IntArray,
    max_new_tokens: int,
    source: Source = Source.GROUND_TRUTH,
) -> Trajectory:
    """The trajectory of a completion of the data, cut as a sampled one would be.

    Args:
        sample_id: that of the prompt at the same stream index.
        prompt_ids: [P] int32, P >= 1.
        completion_ids: [L] int32, L >= 1, ends with its stop token (see `Renderer.completion_ids`).
        max_new_tokens: a longer completion keeps its first this many tokens, loses its stop token with the rest,
            and has finish reason LENGTH; one that fits, stop token included, has STOP.
        source: who wrote it; not the student.

    Raises:
        ValueError: max_new_tokens below 1, or an empty array.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    fits = completion_ids.size <= max_new_tokens
    return Trajectory(
        sample_id=sample_id,
        prompt_ids=prompt_ids,
        completion_ids=completion_ids[:max_new_tokens],
        source=source,
        finish_reason=FinishReason.STOP if fits else FinishReason.LENGTH,
    )
