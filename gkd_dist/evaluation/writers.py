"""Who writes completions for an evaluation: a sampler of the ring, in batches of prompts of similar length."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gkd_dist.interfaces import Sampler
from gkd_dist.types import FinishReason, IntArray, Prompt, SamplingParams

Progress = Callable[[int], None]
"""Told how many more completions are there."""


@dataclass(frozen=True, slots=True)
class Completion:
    token_ids: IntArray
    """[L] int32, the stop token included."""
    is_truncated: bool
    """Whether the length limit ended it."""


class Writer(Protocol):
    async def write(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        """One completion per prompt, in order."""
        ...

    async def close(self) -> None: ...


class Kept(Protocol):
    """Completions that outlive this process, by place among the prompts."""

    completions: dict[int, Completion]

    def add(self, completions: Mapping[int, Completion]) -> None: ...


class SamplingWriter:
    """Implements `Writer` with a sampler."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    async def write(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        trajectories = await self._sampler.sample(prompts, params)
        return [Completion(each.completion_ids, each.finish_reason is FinishReason.LENGTH) for each in trajectories]

    async def close(self) -> None:
        await self._sampler.close()


async def write_all(
    writer: Writer,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    *,
    batch_size: int | None,
    progress: Progress,
    kept: Kept | None = None,
) -> list[Completion]:
    """As `writer.write`, in batches; the longest prompts first, so that want of memory shows at once.

    Args:
        batch_size: None gives the writer everything at once.
        kept: has what was written before, which is not written again, and gets every batch.
    """
    completions: dict[int, Completion] = {} if kept is None else dict(kept.completions)
    if completions:
        progress(len(completions))
    left = (index for index in range(len(prompts)) if index not in completions)
    order = sorted(left, key=lambda index: -prompts[index].token_ids.size)
    size = batch_size or max(1, len(order))
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        written = dict(zip(batch, await writer.write([prompts[index] for index in batch], params), strict=True))
        completions |= written
        if kept is not None:
            kept.add(written)
        progress(len(batch))
    return [completions[index] for index in range(len(prompts))]
