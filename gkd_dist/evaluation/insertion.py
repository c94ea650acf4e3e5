"""The calculator on token ids: which ids it puts behind what was generated so far."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from gkd_dist.evaluation.calculator import Calculator
from gkd_dist.evaluation.writers import Completion, Writer
from gkd_dist.types import IntArray, Prompt, SamplingParams

_SEED_STRIDE = 1_000_003
"""Between the seeds of two rounds, so that no noise is used twice."""


class Insertion:
    """Args:
    calculator: what is inserted.
    equals_ids: of all tokens with a `=` in them.
    decode: text of ids.
    encode: ids of text inside a sequence.
    """

    def __init__(
        self,
        calculator: Calculator,
        equals_ids: Sequence[int],
        decode: Callable[[Sequence[int]], str],
        encode: Callable[[str], IntArray],
    ) -> None:
        self.equals_ids = frozenset(equals_ids)
        self._calculator = calculator
        self._decode = decode
        self._encode = encode
        self.behind = lru_cache(maxsize=4096)(self._behind)
        """The ids that belong behind these; none where the model goes on by itself."""

    def next(self, generated: Sequence[int]) -> int | None:
        """The id that comes next whatever the model says; None where it is the model's own choice."""
        places = [place for place, number in enumerate(generated) if number in self.equals_ids]
        if not places:
            return None
        cut = places[-1] + 1
        inserted, since = self.behind(tuple(generated[:cut])), tuple(generated[cut:])
        waits = len(since) < len(inserted) and inserted[: len(since)] == since
        return inserted[len(since)] if waits else None

    def _behind(self, generated: tuple[int, ...]) -> tuple[int, ...]:
        text = self._calculator.continuation(self._decode(generated))
        if text is None:
            return ()
        # Behind a `=`, so that no tokenizer takes it for the beginning of a word.
        alone, together = self._encode("=").tolist(), self._encode(f"={text}").tolist()
        joined = together[: len(alone)] == alone
        return tuple(together[len(alone) :] if joined else self._encode(text).tolist())


class InsertingWriter:
    """Implements `Writer`: another one is stopped at each `=`, and goes on behind what the calculator put there.

    For engines that nothing can be put into while they write, of causal models: every round reads the text so far again
    behind its prompt.
    """

    def __init__(self, writer: Writer, insertion: Insertion) -> None:
        self._writer = writer
        self._insertion = insertion

    async def write(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        texts: list[list[int]] = [[] for _ in prompts]
        ended: dict[int, bool] = {}
        number = 0
        stops = frozenset(params.stop_token_ids)
        while waiting := [index for index in range(len(prompts)) if index not in ended]:
            asked = [self._continued(prompts[index], texts[index]) for index in waiting]
            room = params.max_new_tokens - min(len(texts[index]) for index in waiting)
            now = replace(
                params,
                max_new_tokens=room,
                stop_token_ids=(*params.stop_token_ids, *sorted(self._insertion.equals_ids - stops)),
                seed=params.seed + _SEED_STRIDE * number,
            )
            written = await self._writer.write(asked, now)
            number += 1
            for index, completion in zip(waiting, written, strict=True):
                own = texts[index]
                own += completion.token_ids.tolist()
                if own[-1] not in stops and own[-1] in self._insertion.equals_ids:
                    own += self._insertion.behind(tuple(own))
                if len(own) > params.max_new_tokens or (own[-1] not in stops and len(own) == params.max_new_tokens):
                    del own[params.max_new_tokens :]
                    ended[index] = True
                elif own[-1] in stops:
                    ended[index] = False
        return [Completion(np.asarray(own, np.int32), ended[index]) for index, own in enumerate(texts)]

    async def close(self) -> None:
        await self._writer.close()

    @staticmethod
    def _continued(prompt: Prompt, text: Sequence[int]) -> Prompt:
        return replace(prompt, token_ids=np.append(prompt.token_ids, np.asarray(text, np.int32)).astype(np.int32))
