"""The calculator on token ids, in a writer that is asked again and again, with letters as tokens."""

import asyncio
from collections.abc import Sequence

import numpy as np

from gkd_dist.evaluation.calculator import Calculator
from gkd_dist.evaluation.insertion import InsertingWriter, Insertion
from gkd_dist.evaluation.writers import Completion
from gkd_dist.types import IntArray, Prompt, SampleId, SamplingParams

STOP = ord("$")


def decode(ids: Sequence[int]) -> str:
    return "".join(chr(number) for number in ids)


def encode(text: str) -> IntArray:
    return np.asarray([ord(letter) for letter in text], np.int32)


INSERTION = Insertion(Calculator("annotations"), [ord("=")], decode, encode)


class Scribe:
    """Writes what follows the prompt in a script, letter by letter; knows no arithmetic."""

    def __init__(self, *scripts: str) -> None:
        self._scripts = scripts
        self.seeds: list[int] = []

    async def write(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        self.seeds.append(params.seed)
        return [self._one(decode(prompt.token_ids), params) for prompt in prompts]

    def _one(self, asked: str, params: SamplingParams) -> Completion:
        rest = next(script[len(asked) :] for script in self._scripts if script.startswith(asked))
        written = rest[: params.max_new_tokens]
        stops = [place for place, letter in enumerate(written) if ord(letter) in params.stop_token_ids]
        written = written[: stops[0] + 1] if stops else written
        return Completion(encode(written), not stops)

    async def close(self) -> None: ...


def complete(prompts: list[str], scribe: Scribe, max_new_tokens: int = 40) -> list[tuple[str, bool]]:
    asked = [Prompt(SampleId("test", index), encode(prompt)) for index, prompt in enumerate(prompts)]
    params = SamplingParams(max_new_tokens=max_new_tokens, stop_token_ids=(STOP,), seed=5)
    written = asyncio.run(InsertingWriter(scribe, INSERTION).write(asked, params))
    return [(decode(each.token_ids), each.is_truncated) for each in written]


def test_the_value_replaces_what_the_model_would_write() -> None:
    """`12>>` is put behind `=`: the script is continued from there, so it has to agree with the right value."""
    scribe = Scribe("Q3*4 = <<3*4=12>>12 ok$", "Rno sums$")
    assert complete(["Q", "R"], scribe) == [("3*4 = <<3*4=12>>12 ok$", False), ("no sums$", False)]
    assert len(set(scribe.seeds)) == len(scribe.seeds) == 3  # no noise is used twice


def test_a_wrong_value_is_never_asked_for() -> None:
    class Wrong(Scribe):
        def _one(self, asked: str, params: SamplingParams) -> Completion:
            return super()._one(asked, params) if ">>" not in asked else Completion(encode("!$"), False)

    assert complete(["Q"], Wrong("Q<<3*4=13>>13$")) == [("<<3*4=12>>!$", False)]


def test_the_length_limit_holds_for_all_rounds_together() -> None:
    scribe = Scribe("Qa=b=c=d=e=f=g$", "R<<1+1=2>>2$")
    for limit in range(1, 14):
        (first, cut), (second, also_cut) = complete(["Q", "R"], scribe, limit)
        assert (first, cut) == ("a=b=c=d=e=f=g$"[:limit], limit < 14)
        assert (second, also_cut) == ("<<1+1=2>>2$"[:limit], limit < 11)


def test_forced_ids_come_one_by_one_and_only_behind_the_last_equals_sign() -> None:
    generated = list(encode("<<3*4="))
    for letter in "12>>":
        assert INSERTION.next(generated) == ord(letter)
        generated.append(ord(letter))
    assert INSERTION.next(generated) is None
    assert INSERTION.next(list(encode("<<3*4=13"))) is None  # a beam that was there before
    assert INSERTION.next(list(encode("no sum"))) is None
