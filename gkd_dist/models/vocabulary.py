"""A tokenizer of one's own text: byte-level BPE, so that no text is unknown and every text comes back (floor F3).

Each digit is a token: numbers are built of few parts, which arithmetic is learned from.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, END = "<pad>", "</s>"
VERSION = 2
"""Raise it when the same texts give another tokenizer."""
_SPECIAL = [PAD, END, "<unk>"]
"""In the order of T5, which begins its vocabulary with them."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, ends_prompts: bool) -> PreTrainedTokenizerFast:
    """The same texts in the same order give the same tokenizer.

    Args:
        vocab_size: tokens at most; few texts give fewer.
        ends_prompts: whether what is encoded with special tokens ends with `</s>`, as an encoder expects.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if ends_prompts:
        end = (END, tokenizer.token_to_id(END))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[end])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=_SPECIAL[2])
