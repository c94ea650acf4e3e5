"""Rendered prompts: from rows to a seeded, resumable stream (floor F2)."""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gkd_dist.config.data import DataConfig
from gkd_dist.data.rows import Row
from gkd_dist.errors import ConfigError, DataError
from gkd_dist.types import IntArray, Prompt, SampleId

NUM_ORDERS_KEPT = 2
"""Epochs whose order stays in memory: the current one, and the one before for samples still under way."""


class RowRenderer(Protocol):
    """What `rendering.Renderer` offers here."""

    @property
    def stop_token_ids(self) -> tuple[int, ...]: ...

    def prompt_ids(self, row: Row) -> IntArray: ...

    def completion_ids(self, row: Row) -> IntArray | None: ...


@dataclass(frozen=True, slots=True)
class RenderedRow:
    prompt_ids: IntArray
    """[P] int32, P >= 1."""
    completion_ids: IntArray | None
    """[L] int32, ends with a stop token; None where the row has no completion."""
    text: str = ""
    """The question as a person reads it: the prompt, or its last message."""
    source: str | None = None
    """Of the row; see `rows.Row`."""
    reference: str | None = None
    """The completion as text; None where the row has none."""


@dataclass(frozen=True, slots=True)
class RenderedPrompts:
    """What a run trains on, and what it evaluates on."""

    train: tuple[RenderedRow, ...]
    held_out: tuple[RenderedRow, ...]
    num_dropped: Mapping[str, int]
    """Rows left out, by reason: `too_long`, `no_tokens`, `same_as_held_out`."""
    num_truncated: int
    longest_tokens: int
    """Longest prompt met, before dropping or truncating."""


def prompt_limit(config: DataConfig, *, max_model_len: int, max_new_tokens: int) -> int:
    """Longest prompt that a run may use, tokens.

    Raises:
        ConfigError: prompts of `data.max_prompt_tokens` and a full completion would not fit into the context.
    """
    room = max_model_len - max_new_tokens
    if room < 1 or (config.max_prompt_tokens or 0) > room:
        raise ConfigError(
            [
                f"data.max_prompt_tokens: {config.max_prompt_tokens or 1} prompt tokens and {max_new_tokens} new "
                f"tokens exceed a context of {max_model_len}; lower it or sampling.max_new_tokens, "
                "or raise sampler.max_model_len"
            ]
        )
    return config.max_prompt_tokens or room


def render_prompts(
    rows: Iterable[Row], renderer: RowRenderer, config: DataConfig, *, max_prompt_tokens: int
) -> RenderedPrompts:
    """Rows as token ids, split into held-out and training rows.

    Held out are the first `num_held_out` rows that are not dropped, in the order of the source: independent of any
    seed, so that all runs on a data set are evaluated alike. Training rows are the next `num_train` (or all), less
    those whose prompt equals a held-out one; the two sets never share a prompt. No row after those is rendered.

    `overlong` says what happens to a prompt of more than `max_prompt_tokens`: `error`, `drop`, `truncate_left` (keeps
    the last tokens; a chat template's opening is cut away with the rest), or `truncate_right` (keeps the first ones,
    and the stop token that ends the prompt of an encoder).

    Raises:
        DataError: an overlong prompt under `error`, more than `max_dropped_share` of the rows dropped for their
            length, or nothing left to hold out or to train on.
    """
    split = _Split(config, max_prompt_tokens)
    for row in rows:
        split.add(row, renderer)
        if len(split.train) == config.num_train:
            break
    rendered = RenderedPrompts(
        tuple(split.train), tuple(split.held_out), dict(split.dropped), split.num_truncated, split.longest_tokens
    )
    _check(rendered, config, split.num_seen, max_prompt_tokens)
    return rendered


class _Split:
    """Held-out and training rows while they are rendered one by one."""

    def __init__(self, config: DataConfig, max_prompt_tokens: int) -> None:
        self._config = config
        self._limit = max_prompt_tokens
        self._held_out_prompts: set[bytes] = set()
        self.train: list[RenderedRow] = []
        self.held_out: list[RenderedRow] = []
        self.dropped: Counter[str] = Counter()
        self.num_seen = 0
        self.num_truncated = 0
        self.longest_tokens = 0

    def add(self, row: Row, renderer: RowRenderer) -> None:
        self.num_seen += 1
        ids = self._fitting(renderer.prompt_ids(row), renderer.stop_token_ids)
        if ids is None:
            self.dropped["too_long"] += 1
        elif ids.size == 0:
            self.dropped["no_tokens"] += 1
        elif len(self.held_out) < self._config.num_held_out:
            self._held_out_prompts.add(ids.tobytes())
            self.held_out.append(_rendered(row, ids, renderer))
        elif ids.tobytes() in self._held_out_prompts:
            self.dropped["same_as_held_out"] += 1
        else:
            self.train.append(_rendered(row, ids, renderer))

    def _fitting(self, ids: IntArray, stop_token_ids: Collection[int]) -> IntArray | None:
        """`ids` within the limit, by the overlong policy; None means drop."""
        self.longest_tokens = max(self.longest_tokens, ids.size)
        if ids.size <= self._limit:
            return ids
        match self._config.overlong:
            case "drop":
                return None
            case "truncate_left":
                self.num_truncated += 1
                return ids[ids.size - self._limit :]
            case "truncate_right":
                self.num_truncated += 1
                return first_tokens(ids, self._limit, stop_token_ids)
            case "error":
                raise DataError(
                    f"the prompt of usable row {self.num_seen} has {ids.size} tokens, more than the {self._limit} "
                    "allowed; shorten it, raise data.max_prompt_tokens or sampler.max_model_len, or set "
                    "data.overlong to drop, truncate_left or truncate_right"
                )


def first_tokens(ids: IntArray, limit: int, stop_token_ids: Collection[int]) -> IntArray:
    """The first `limit` of `ids` [L], L >= limit >= 1; a stop token that ends them stays the last one."""
    ends = int(ids[-1]) in stop_token_ids
    return np.append(ids[: limit - 1], ids[-1]) if ends else ids[:limit]


def _rendered(row: Row, prompt_ids: IntArray, renderer: RowRenderer) -> RenderedRow:
    text = row.prompt if isinstance(row.prompt, str) else row.prompt[-1].content
    return RenderedRow(prompt_ids, renderer.completion_ids(row), text, row.source, row.completion)


def _check(rendered: RenderedPrompts, config: DataConfig, num_seen: int, limit: int) -> None:
    counts = ", ".join(f"{number} {reason}" for reason, number in sorted(rendered.num_dropped.items())) or "none"
    found = f"{num_seen} rows, dropped: {counts}; longest prompt {rendered.longest_tokens} tokens, allowed {limit}"
    num_unusable = rendered.num_dropped.get("too_long", 0) + rendered.num_dropped.get("no_tokens", 0)
    if num_unusable == num_seen:
        raise DataError(f"no usable prompt ({found}); raise data.max_prompt_tokens or sampler.max_model_len")
    if num_unusable > config.max_dropped_share * num_seen:
        raise DataError(
            f"more than data.max_dropped_share = {config.max_dropped_share:g} of the rows were dropped ({found}); "
            "raise data.max_prompt_tokens, sampler.max_model_len or that share, or set data.overlong to truncate_left "
            "or truncate_right"
        )
    if not rendered.train:
        raise DataError(
            f"nothing left to train on after {len(rendered.held_out)} held-out rows ({found}); "
            f"lower data.num_held_out (now {config.num_held_out}) or give more rows"
        )


class PromptStream:
    """Training prompts without end: stream index n = 0, 1, 2, ... over all epochs.

    Each epoch is a permutation of the rows drawn from (seed, epoch). Every method is a pure function of the seed and
    the index, so a cursor is all that a resumed run needs.

    Example:
        stream = PromptStream(rendered.train, run="quickstart-1", seed=0, shuffle=True)
        stream.prompt(17).sample_id  # SampleId("quickstart-1", 17, 0)

    For the held-out rows: `PromptStream(rendered.held_out, run="quickstart-1:held-out", seed=0, shuffle=False)`.
    """

    def __init__(self, prompts: Sequence[RenderedRow], *, run: str, seed: int, shuffle: bool) -> None:
        if not prompts:
            raise ValueError("a prompt stream needs at least one prompt")
        self._rows = prompts
        self._run = run
        self._seed = seed
        self._shuffle = shuffle
        self._orders: dict[int, list[int]] = {}

    @property
    def num_rows(self) -> int:
        """Prompts of one epoch."""
        return len(self._rows)

    def row_index(self, index: int) -> int:
        """Which row stands at stream position `index`."""
        if index < 0:
            raise ValueError(f"a stream index counts from 0, got {index}")
        epoch, position = divmod(index, len(self._rows))
        return self._order(epoch)[position] if self._shuffle else position

    def row(self, index: int) -> RenderedRow:
        return self._rows[self.row_index(index)]

    def prompt(self, index: int, repeat_index: int = 0) -> Prompt:
        """The prompt at stream position `index`, under its stable id."""
        return Prompt(SampleId(self._run, index, repeat_index), self.row(index).prompt_ids)

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            order = list(range(len(self._rows)))
            # A string seed is hashed the same way on every machine and Python version.
            random.Random(f"prompts/{self._seed}/{epoch}").shuffle(order)
            while len(self._orders) >= NUM_ORDERS_KEPT:
                del self._orders[min(self._orders)]
            self._orders[epoch] = order
        return self._orders[epoch]
