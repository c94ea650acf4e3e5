import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.config.data import DataConfig
from gkd_dist.data.prompts import PromptStream, RenderedRow, first_tokens, prompt_limit, render_prompts
from gkd_dist.data.rows import Row
from gkd_dist.errors import ConfigError, DataError
from gkd_dist.types import SampleId


class LetterRenderer:
    """One token per letter: the prompt "abc" is [97, 98, 99]; a full stop ends a prompt."""

    stop_token_ids = (ord("."),)

    def __init__(self):
        self.num_rendered = 0

    def prompt_ids(self, row):
        self.num_rendered += 1
        return np.frombuffer(row.prompt.encode(), dtype=np.uint8).astype(np.int32)

    def completion_ids(self, row):
        return None if row.completion is None else np.array([len(row.completion), 1], dtype=np.int32)


def render(prompts, *, limit=10, **options):
    rows = [Row(prompt, prompt) for prompt in prompts]
    return render_prompts(rows, LetterRenderer(), DataConfig(**options), max_prompt_tokens=limit)


def text(rows):
    return [bytes(row.prompt_ids.astype(np.uint8)).decode() for row in rows]


def rows_of(number):
    return [RenderedRow(np.array([index], dtype=np.int32), None) for index in range(number)]


def test_first_rows_are_held_out_and_the_next_are_trained_on():
    rendered = render(["a", "b", "c", "d", "e"], num_held_out=2, num_train=2)
    assert (text(rendered.held_out), text(rendered.train)) == (["a", "b"], ["c", "d"])
    assert rendered.train[0].completion_ids.tolist() == [1, 1]


def test_rows_beyond_num_train_are_not_rendered():
    renderer = LetterRenderer()
    render_prompts(
        (Row(letter) for letter in "abcdefgh"), renderer, DataConfig(num_held_out=1, num_train=2), max_prompt_tokens=9
    )
    assert renderer.num_rendered == 3


def test_a_prompt_equal_to_a_held_out_one_is_never_trained_on():
    rendered = render(["a", "b", "a", "c", "b", "d", "c"], num_held_out=2, max_dropped_share=0)
    assert text(rendered.train) == ["c", "d", "c"]
    assert rendered.num_dropped == {"same_as_held_out": 2}


@pytest.mark.fault(41)
def test_overlong_prompts_are_dropped_and_counted():
    rendered = render(["aaaa", "b", "ccccc", "d"], limit=3, num_held_out=1, max_dropped_share=0.5)
    assert (text(rendered.held_out), text(rendered.train)) == (["b"], ["d"])
    assert (rendered.num_dropped, rendered.longest_tokens, rendered.num_truncated) == ({"too_long": 2}, 5, 0)


@pytest.mark.fault(41)
def test_truncate_left_keeps_the_last_tokens():
    rendered = render(["abcd", "b", "cd"], limit=2, num_held_out=1, overlong="truncate_left", max_dropped_share=0)
    assert (text(rendered.held_out), text(rendered.train)) == (["cd"], ["b"])
    assert (rendered.num_truncated, rendered.num_dropped) == (1, {"same_as_held_out": 1})


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["a", "bbbb"], {"limit": 3, "overlong": "error"}, r"usable row 2 has 4 tokens, more than the 3 allowed"),
        (["a", "b", "cccc"], {"limit": 3, "max_dropped_share": 0.3}, r"3 rows, dropped: 1 too_long; longest prompt 4"),
        (["aaaa", "bbbbb"], {"limit": 3, "max_dropped_share": 1}, r"no usable prompt \(2 rows, .*longest prompt 5"),
        (["", ""], {"max_dropped_share": 1}, r"no usable prompt \(2 rows, dropped: 2 no_tokens"),
        (["a"], {}, r"nothing left to train on after 1 held-out rows .* lower data\.num_held_out \(now 1\)"),
        (["a", "a"], {}, r"nothing left to train on .*dropped: 1 same_as_held_out"),
        ([], {}, "no usable prompt"),
    ],
)
def test_too_little_to_train_on_is_an_error_with_counts(prompts, options, message):
    with pytest.raises(DataError, match=message):
        render(prompts, num_held_out=1, **options)


def test_dropped_share_at_the_limit_is_fine():
    assert len(render(["a", "b", "cccc", "d"], limit=3, num_held_out=1, max_dropped_share=0.25).train) == 2


@given(
    prompts=st.lists(st.text("abc", max_size=4), min_size=3, max_size=30),
    num_held_out=st.integers(1, 3),
    limit=st.integers(1, 4),
    overlong=st.sampled_from(["drop", "truncate_left"]),
)
def test_every_row_is_trained_on_held_out_or_counted(prompts, num_held_out, limit, overlong):
    try:
        rendered = render(prompts, limit=limit, num_held_out=num_held_out, overlong=overlong, max_dropped_share=1)
    except DataError:
        return
    assert len(rendered.train) + len(rendered.held_out) + sum(rendered.num_dropped.values()) == len(prompts)
    assert not set(text(rendered.train)) & set(text(rendered.held_out))
    assert all(1 <= row.prompt_ids.size <= limit for row in rendered.train + rendered.held_out)


def test_prompt_limit_is_what_the_context_leaves():
    assert prompt_limit(DataConfig(), max_model_len=100, max_new_tokens=30) == 70
    assert prompt_limit(DataConfig(max_prompt_tokens=70), max_model_len=100, max_new_tokens=30) == 70
    with pytest.raises(ConfigError, match="71 prompt tokens and 30 new tokens exceed a context of 100"):
        prompt_limit(DataConfig(max_prompt_tokens=71), max_model_len=100, max_new_tokens=30)
    with pytest.raises(ConfigError, match="exceed a context of 30"):
        prompt_limit(DataConfig(), max_model_len=30, max_new_tokens=30)


@given(number=st.integers(1, 40), seed=st.integers(0, 2**32), epoch=st.integers(0, 5))
def test_each_epoch_is_a_permutation(number, seed, epoch):
    stream = PromptStream(rows_of(number), run="r", seed=seed, shuffle=True)
    indices = [stream.row_index(epoch * number + position) for position in range(number)]
    assert sorted(indices) == list(range(number))


def test_epochs_and_seeds_have_different_orders():
    def order(seed, epoch):
        stream = PromptStream(rows_of(50), run="r", seed=seed, shuffle=True)
        return [stream.row_index(50 * epoch + position) for position in range(50)]

    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(each) for each in orders}) == 9


def test_stream_is_a_pure_function_of_the_index():
    rows = rows_of(7)
    stream = PromptStream(rows, run="r", seed=1, shuffle=True)
    forwards = [stream.prompt(index) for index in range(70)]
    backwards = [stream.prompt(index) for index in reversed(range(70))][::-1]
    resumed = [PromptStream(rows, run="r", seed=1, shuffle=True).prompt(index) for index in range(70)]
    for index, prompts in enumerate(zip(forwards, backwards, resumed, strict=True)):
        assert {prompt.sample_id for prompt in prompts} == {SampleId("r", index)}
        assert len({prompt.token_ids.tobytes() for prompt in prompts}) == 1
        assert stream.row(index).prompt_ids is rows[stream.row_index(index)].prompt_ids


def test_order_of_a_seed_never_changes():
    # A resumed run must meet the order of the version that began it: these values are the contract.
    stream = PromptStream(rows_of(8), run="r", seed=0, shuffle=True)
    assert [stream.row_index(index) for index in range(16)] == [1, 5, 7, 2, 4, 6, 3, 0, 4, 1, 7, 6, 2, 3, 0, 5]


def test_unshuffled_stream_repeats_the_rows_in_order():
    stream = PromptStream(rows_of(3), run="r", seed=1, shuffle=False)
    assert [stream.row_index(index) for index in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_empty_stream_and_negative_index_are_refused():
    with pytest.raises(ValueError, match="at least one prompt"):
        PromptStream([], run="r", seed=0, shuffle=True)
    with pytest.raises(ValueError, match="-1"):
        PromptStream(rows_of(2), run="r", seed=0, shuffle=True).prompt(-1)


def test_truncate_right_keeps_the_first_tokens_and_the_one_that_ends_a_prompt():
    rendered = render(["abcd", "efg.", "h"], limit=3, num_held_out=1, overlong="truncate_right", max_dropped_share=0)
    assert (text(rendered.held_out), text(rendered.train)) == (["abc"], ["ef.", "h"])
    assert rendered.num_truncated == 2


def test_the_first_tokens_keep_the_stop_token_that_ends_a_prompt() -> None:
    ids = np.array([5, 6, 7, 8, 1], dtype=np.int32)
    assert first_tokens(ids, 3, (1,)).tolist() == [5, 6, 1]
    assert first_tokens(ids[:4], 3, (1,)).tolist() == [5, 6, 7]
    assert first_tokens(ids, 1, (1,)).tolist() == [1]
