import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.data.rendering import Renderer, check_same_tokenizer
from gkd_dist.data.rows import Message, Row
from gkd_dist.errors import DataError, ModelError

WORDS = ("how", "many", "apples", "?", "four", "five", "user", "assistant", "system", "be", "brief", ".", "gkd")
CHAT_TEMPLATE = (
    "{% for m in messages %}<turn> {{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<turn> assistant {% endif %}"
)
ID = {word: 4 + number for number, word in enumerate(WORDS)}
EOS, TURN, END = 1, 2, 3
QUESTION = [ID["how"], ID["many"], ID["apples"], ID["?"]]


@pytest.fixture(scope="session")
def make_tokenizer(tmp_path_factory):
    """make_tokenizer(words, ...) -> folder that AutoTokenizer loads: word i has id 4 + i."""

    def make(words=WORDS, *, chat_template=CHAT_TEMPLATE, eos="</s>", pad=None, bos=False, stop_ids=None):
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        vocabulary = {"<unk>": 0, "</s>": 1, "<turn>": 2, "<end>": 3}
        for word in words:
            vocabulary[word] = len(vocabulary)
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.add_special_tokens(["<unk>", "</s>", "<turn>", "<end>"])
        if bos:
            backend.post_processor = processors.TemplateProcessing("<turn> $A", special_tokens=[("<turn>", 2)])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, unk_token="<unk>", eos_token=eos, pad_token=pad, chat_template=chat_template
        )
        folder = tmp_path_factory.mktemp("tokenizer")
        tokenizer.save_pretrained(folder)
        if stop_ids is not None:
            (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stop_ids}))
        return str(folder)

    return make


def test_text_becomes_one_user_turn_and_opens_the_answer(make_tokenizer):
    renderer = Renderer(make_tokenizer(), system_prompt=None)
    ids = renderer.prompt_ids(Row("how many apples ?"))
    assert ids.dtype == np.int32
    assert ids.tolist() == [TURN, ID["user"], *QUESTION, END, TURN, ID["assistant"]]


def test_system_prompt_opens_a_conversation_without_one(make_tokenizer):
    renderer = Renderer(make_tokenizer(), system_prompt="be brief .")
    opening = [TURN, ID["system"], ID["be"], ID["brief"], ID["."], END]
    assert renderer.prompt_ids(Row("how many")).tolist()[:6] == opening
    own = Row((Message("system", "four"), Message("user", "how many")))
    assert renderer.prompt_ids(own).tolist()[:4] == [TURN, ID["system"], ID["four"], END]


def test_plain_text_keeps_the_tokenizer_s_special_tokens(make_tokenizer):
    renderer = Renderer(make_tokenizer(chat_template=None, bos=True))
    assert not renderer.uses_chat_template
    row = Row("how many apples ?", "four apples")
    assert renderer.prompt_ids(row).tolist() == [TURN, *QUESTION]
    assert renderer.completion_ids(row).tolist() == [ID["four"], ID["apples"], EOS], "no opening token"


def test_chat_template_can_be_switched_off(make_tokenizer):
    renderer = Renderer(make_tokenizer(), apply_chat_template=False)
    assert renderer.prompt_ids(Row("how many apples ?")).tolist() == QUESTION
    assert renderer.end_token_id == EOS


def test_completion_ends_as_the_chat_template_ends_a_turn(make_tokenizer):
    # The tokenizer's EOS is </s>, yet this model ends an answer with <end>, as Gemma's and Llama's templates do.
    renderer = Renderer(make_tokenizer(stop_ids=[1, 3]))
    assert renderer.end_token_id == END
    assert renderer.stop_token_ids == (EOS, END)
    assert renderer.completion_ids(Row("how", "four apples .")).tolist() == [ID["four"], ID["apples"], ID["."], END]


def test_stop_tokens_come_from_the_tokenizer_without_a_generation_config(make_tokenizer):
    assert Renderer(make_tokenizer(eos="<end>")).stop_token_ids == (END,)
    assert Renderer(make_tokenizer(stop_ids=3, chat_template=None)).stop_token_ids == (END, EOS)


def test_completion_is_cut_after_a_stop_token_in_its_text(make_tokenizer):
    renderer = Renderer(make_tokenizer(chat_template=None))
    assert renderer.completion_ids(Row("how", "four </s> five")).tolist() == [ID["four"], EOS]
    assert renderer.completion_ids(Row("how", "four </s>")).tolist() == [ID["four"], EOS], "not two in a row"


def test_row_without_completion_has_no_completion_ids(make_tokenizer):
    assert Renderer(make_tokenizer()).completion_ids(Row("how many")) is None


def test_decode_leaves_special_tokens_out(make_tokenizer):
    renderer = Renderer(make_tokenizer())
    ids = renderer.completion_ids(Row("how", "four apples"))
    assert renderer.decode(ids) == renderer.decode(ids.tolist()) == "four apples"


def test_padding_falls_back_to_the_end_token(make_tokenizer):
    assert Renderer(make_tokenizer(pad="<unk>")).pad_token_id == 0
    assert Renderer(make_tokenizer(eos="<end>")).pad_token_id == END


def test_num_ids_counts_real_tokens(make_tokenizer):
    assert Renderer(make_tokenizer()).num_ids == 4 + len(WORDS)


@settings(max_examples=50, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1), answer=st.lists(st.sampled_from(WORDS)))
def test_completion_tokens_do_not_depend_on_the_prompt(make_tokenizer, words, answer):
    renderer = _cached(make_tokenizer)
    row = Row(" ".join(words), " ".join(answer))
    assert renderer.completion_ids(row).tolist() == [*(ID[word] for word in answer), renderer.end_token_id]
    assert renderer.prompt_ids(row).tolist()[2:-3] == [ID[word] for word in words]


def _cached(make_tokenizer, cache=[]):  # noqa: B006 - one tokenizer for all examples
    if not cache:
        cache.append(Renderer(make_tokenizer(eos="<end>")))
    return cache[0]


def test_messages_need_a_chat_template(make_tokenizer):
    renderer = Renderer(make_tokenizer(chat_template=None))
    with pytest.raises(DataError, match="messages, but no chat template"):
        renderer.prompt_ids(Row((Message("user", "how"),)))


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        (None, {"apply_chat_template": True}, "has no chat template"),
        (None, {"system_prompt": "be brief"}, "system_prompt needs a chat template"),
    ],
)
def test_what_needs_a_chat_template_is_refused_without_one(make_tokenizer, template, options, message):
    with pytest.raises(ModelError, match=message):
        Renderer(make_tokenizer(chat_template=template), **options)


def test_model_without_end_of_sequence_is_refused(make_tokenizer):
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        Renderer(make_tokenizer(eos=None))


def test_template_that_refuses_a_role_names_the_roles(make_tokenizer):
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}how"
    renderer = Renderer(make_tokenizer(chat_template=strict))
    with pytest.raises(DataError, match="refuses the roles system, user: no system"):
        renderer.prompt_ids(Row((Message("system", "be"), Message("user", "how"))))


def test_missing_tokenizer_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(ModelError, match=str(tmp_path)):
        Renderer(str(tmp_path))


def test_same_tokenizers_share_all_ids(make_tokenizer):
    assert check_same_tokenizer(make_tokenizer(), make_tokenizer()) == 4 + len(WORDS)


@pytest.mark.fault(43)
def test_different_order_of_equal_size_is_refused_with_the_first_ids(make_tokenizer):
    teacher = make_tokenizer(("how", "apples", "many", *WORDS[3:]))
    with pytest.raises(ModelError, match=r"differ at 2 ids .*id 5: 'many' in the student, 'apples' in the teacher"):
        check_same_tokenizer(make_tokenizer(), teacher)


@pytest.mark.fault(45)
def test_extra_token_is_refused_as_missing(make_tokenizer):
    teacher = make_tokenizer((*WORDS, "pears"))
    with pytest.raises(ModelError, match=rf"id {4 + len(WORDS)}: missing in the student, 'pears' in the teacher"):
        check_same_tokenizer(make_tokenizer(), teacher)
    with pytest.raises(ModelError, match="'pears' in the student, missing in the teacher"):
        check_same_tokenizer(teacher, make_tokenizer())


def test_other_chat_template_is_a_warning(make_tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        check_same_tokenizer(make_tokenizer(), make_tokenizer())
        assert not caplog.records
        check_same_tokenizer(make_tokenizer(), make_tokenizer(chat_template="{{ messages[0]['content'] }}"))
    assert "chat templates" in caplog.text


def test_golden_sequences_hold_whatever_the_system_prompt_and_no_special_id_is_drawn(make_tokenizer):
    from gkd_dist.data.golden import golden_sequences

    folder = make_tokenizer()
    plain, long = (Renderer(str(folder), system_prompt=text) for text in (None, "be brief . " * 100))
    assert long.prompt_ids(Row("how")).size > 300
    sequences = [golden_sequences(renderer, plain.num_ids, 128) for renderer in (plain, long)]
    assert len(sequences[0]) == 6
    for one, other in zip(*sequences, strict=True):
        assert one.prompt_ids.tolist() == other.prompt_ids.tolist()
        assert one.completion_ids.tolist() == other.completion_ids.tolist()
    assert plain.ordinary_ids.tolist() == list(range(4, plain.num_ids))
    for random in sequences[0][3:]:
        assert random.prompt_ids.dtype == random.completion_ids.dtype == np.int32
        assert min(random.prompt_ids.min(), random.completion_ids.min()) > END


def test_golden_sequences_are_random_alone_where_the_tokenizer_knows_no_word_of_the_text(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from gkd_dist.data.golden import golden_sequences

    words = {word: index for index, word in enumerate(("<pad>", "</s>", "\u2654", "\u2655", "\u2656"))}
    inner = Tokenizer(models.BPE(words, merges=[]))
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>").save_pretrained(tmp_path)
    sequences = golden_sequences(Renderer(str(tmp_path)), len(words), 128)
    assert [each.num_tokens for each in sequences] == [2, 16, 16]
