"""From items to ids: one BOS, nothing doubled, cut only where allowed."""

from dataclasses import replace

import pytest

from assay.cards.card import Card
from assay.errors import (
    CheckpointError,
    EmptyItem,
    InvalidField,
    ItemTooLong,
    TemplateRefused,
)
from assay.items import Conversation, Ids, Text, TokenizedItem
from assay.prompts.template import Template
from tests.prompts import tokenizers

PAD, BOS, EOS, CLS, SEP = range(5)


def talk(prompt, response):
    """Return one exchange."""
    return Conversation(
        ({"role": "user", "content": prompt}, {"role": "assistant", "content": response})
    )


def one(template, source, truncation=None):
    """Render a single item, raising its error."""
    rendered = template.render_all([source], truncation)[0]
    if isinstance(rendered, Exception):
        raise rendered
    return rendered


@pytest.mark.parametrize("chat", [tokenizers.CHAT, tokenizers.CHAT_WITH_BOS])
def test_a_conversation_starts_with_exactly_one_bos(tmp_path, chat):
    """Whether or not the template writes BOS, a tokenizer that adds it gives one in all."""
    template = Template(tokenizers.make(tmp_path, adds_bos=True, chat=chat))

    ids = one(template, talk("hi", "ho")).ids.tolist()

    assert (ids[0], ids.count(BOS)) == (BOS, 1)


@pytest.mark.parametrize("text", ["abc", "<s>abc", "<s><s>abc"])
def test_plain_text_starts_with_exactly_one_bos(tmp_path, text):
    """Text with no BOS gets one, text with one keeps it, a doubled one is made single."""
    template = Template(tokenizers.make(tmp_path, adds_bos=True))

    ids = one(template, Text(text)).ids.tolist()

    assert (ids[0], ids.count(BOS), len(ids)) == (BOS, 1, 4)


def test_a_defined_but_never_added_bos_is_not_added(tmp_path):
    """A tokenizer that defines BOS for other uses (GPT-NeoX) doesn't put it before plain text."""
    template = Template(tokenizers.make(tmp_path, adds_bos=False))

    assert BOS not in one(template, Text("abc")).ids.tolist()


def test_no_eos_is_added_to_rendered_text(tmp_path):
    """The template decides how a conversation ends, even where the tokenizer would add an EOS."""
    template = Template(tokenizers.make(tmp_path, adds_bos=True, adds_eos=True))

    ids = one(template, talk("hi", "ho")).ids.tolist()

    assert ids.count(EOS) == 2  # those that the template wrote, one a turn


def test_input_ids_are_taken_verbatim(tmp_path):
    """Ids are neither given a BOS nor changed."""
    template = Template(tokenizers.make(tmp_path, adds_bos=True))

    assert one(template, Ids((9, 8, 7))).ids.tolist() == [9, 8, 7]


def test_a_prompt_over_the_limit_is_cut_from_the_left(tmp_path):
    """The template, the response and what follows it stay whole, and the cut is reported."""
    template = Template(tokenizers.make(tmp_path, adds_bos=True), max_tokens=40)

    rendered = one(template, talk("p" * 100, "the answer"))

    text = "".join(template.tokenizer.tokens(rendered.ids)).replace("Ġ", " ")
    assert rendered.truncated
    assert len(rendered.ids) == 40
    assert text == f"<s>[user] {'p' * 8}</s>[assistant] the answer</s>"
    assert rendered.text == text.removeprefix("<s>")


def test_an_item_at_the_limit_is_not_cut(tmp_path):
    """Exactly as many tokens as the limit are taken as they are."""
    folder = tokenizers.make(tmp_path, adds_bos=True)
    size = len(one(Template(folder), talk("hi", "ho")).ids)

    assert not one(Template(folder, max_tokens=size), talk("hi", "ho")).truncated


def test_a_response_over_the_limit_is_an_error(tmp_path):
    """A response is never cut unless that is asked for."""
    template = Template(tokenizers.make(tmp_path, adds_bos=True), max_tokens=40)

    with pytest.raises(ItemTooLong, match="the response alone has 51 tokens, the model takes 39"):
        one(template, talk("hi", "r" * 50))


def test_a_response_that_can_never_fit_is_refused_before_it_is_tokenized(tmp_path):
    """A million characters don't hold up everybody's tokenization; with `response_end` they may."""
    template = Template(tokenizers.make(tmp_path), max_tokens=40)
    source = talk("hi", "r" * 1_000_000)

    with pytest.raises(ItemTooLong, match="has 1000000 characters, more than 40 tokens can hold"):
        one(template, source)
    assert len(one(template, source, "response_end").ids) == 40


def test_response_end_cuts_the_response_and_keeps_its_ending(tmp_path):
    """With `response_end` the response loses its end; the prompt and what is around it stay."""
    template = Template(tokenizers.make(tmp_path, adds_bos=True), max_tokens=40)

    ids = one(template, talk("hi", "r" * 50), "response_end").ids.tolist()

    text = "".join(template.tokenizer.tokens(ids)).replace("Ġ", " ")
    assert len(ids) == 40
    assert text == f"<s>[user] hi</s>[assistant] {'r' * 16}</s>"


def test_ids_over_the_limit_are_an_error(tmp_path):
    """Verbatim ids are never cut."""
    template = Template(tokenizers.make(tmp_path), max_tokens=3)

    with pytest.raises(ItemTooLong):
        one(template, Ids((9, 9, 9, 9)))


def test_an_id_outside_the_vocabulary_is_an_error(tmp_path):
    """The message names the id and where the vocabulary ends."""
    template = Template(tokenizers.make(tmp_path))

    with pytest.raises(InvalidField, match="an id of 5000; the model's vocabulary ends at 260"):
        one(template, Ids((1, 5000)))


@pytest.mark.parametrize("source", [Ids(()), Text("")])
def test_an_item_without_tokens_is_an_error(tmp_path, source):
    """There is nothing to read a score from."""
    with pytest.raises(EmptyItem):
        one(Template(tokenizers.make(tmp_path)), source)


def test_a_role_that_the_template_refuses_is_an_error_with_its_words(tmp_path):
    """The template's own sentence reaches the caller."""
    template = Template(tokenizers.make(tmp_path))
    source = Conversation(
        ({"role": "wizard", "content": "x"}, {"role": "assistant", "content": "y"})
    )

    with pytest.raises(TemplateRefused, match="only user and assistant may speak"):
        one(template, source)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("'no: ' ~ m.content", "no: …"),
        ("m.content ~ ' is no role of ' + m.role", "… is no role of …"),
        ("'%s after %s' | format(m.content, m.role)", "TemplateError"),
        ("m.content[:4]", "TemplateError"),
    ],
)
def test_a_refusal_that_quotes_the_conversation_keeps_the_template_s_words(tmp_path, said, told):
    """Messages never contain prompt text, whatever a template says."""
    chat = "{% for m in messages %}{{ raise_exception(" + said + ") }}{% endfor %}"
    template = Template(tokenizers.make(tmp_path, chat=chat))

    with pytest.raises(TemplateRefused) as refused:
        one(template, talk("zzz-secret", "ho"))
    assert refused.value.message.endswith(f"refuses the conversation: {told}")


def test_one_refused_conversation_among_many_is_found(tmp_path):
    """Conversations go through the template together; a refused one costs the others nothing."""
    template = Template(tokenizers.make(tmp_path))
    wizard = Conversation(({"role": "wizard", "content": "x"},))
    sources = [talk("hi", "h" * place) for place in range(1, 5)]

    rendered = template.render_all([*sources[:2], wizard, *sources[2:]])

    assert isinstance(rendered.pop(2), TemplateRefused)
    assert [entry.ids.tolist() for entry in rendered] == [
        one(template, source).ids.tolist() for source in sources
    ]


@pytest.mark.parametrize("options", [{}, {"adds_bos": True}, {"is_encoder": True, "chat": None}])
def test_the_ids_are_those_that_transformers_gives(tmp_path, options):
    """The tokenizer's core is called without transformers around it: the ids are the same."""
    template = Template(tokenizers.make(tmp_path, **options))
    texts = ["a b  c\n", "<s>é🌞</s>", "\u00a0x"]

    direct = list(template.tokenizer.encode(texts))

    assert template.tokenizer._core is not None
    assert direct == template.tokenizer.hf(texts, add_special_tokens=False)["input_ids"]


def test_a_bad_item_leaves_its_neighbours_alone(tmp_path):
    """A lone surrogate, an empty text and a refused role each fail in their own place."""
    template = Template(tokenizers.make(tmp_path))
    good = Text("fine\0too")
    wizard = Conversation(({"role": "wizard", "content": "x"},))

    rendered = template.render_all([good, Text("\ud800"), Text(""), wizard, good])

    kinds = [type(item) for item in rendered]
    assert kinds == [TokenizedItem, InvalidField, EmptyItem, TemplateRefused, TokenizedItem]
    assert rendered[0].ids.tolist() == rendered[4].ids.tolist()


def test_a_decoder_without_a_chat_template_takes_text_only(tmp_path):
    """Guessing a format would give a plausible wrong number."""
    template = Template(tokenizers.make(tmp_path, chat=None))

    assert len(one(template, Text("abc")).ids) == 3
    with pytest.raises(TemplateRefused, match="no chat template"):
        one(template, talk("hi", "ho"))


def test_an_encoder_without_a_chat_template_takes_prompt_and_response_as_a_pair(tmp_path):
    """As the tokenizer itself encodes two texts (OpenAssistant's deberta reward models)."""
    template = Template(tokenizers.make(tmp_path, is_encoder=True, chat=None))

    ids = one(template, talk("hi", "ho")).ids.tolist()

    assert template.tokenizer.tokens(ids) == ["<cls>", "h", "i", "<sep>", "h", "o", "<sep>"]


@pytest.mark.parametrize("text", ["abc", "<cls>abc<sep>"])
def test_an_encoders_text_stands_in_its_frame_once(tmp_path, text):
    """CLS and SEP are put around plain text, and not doubled where it has them."""
    template = Template(tokenizers.make(tmp_path, is_encoder=True, chat=None))

    ids = one(template, Text(text)).ids
    assert template.tokenizer.tokens(ids) == ["<cls>", *"abc", "<sep>"]


SEGMENTED = {"is_encoder": True, "has_segments": True, "chat": None}


@pytest.mark.parametrize("size", [8, 1])
def test_a_pair_of_an_encoder_with_segments_has_the_tokenizer_s_own_segment_ids(tmp_path, size):
    """BERT's second segment is the response and the separator behind it, cut or not."""
    folder = tokenizers.make(tmp_path, config={"type_vocab_size": 2}, **SEGMENTED)
    template = Template(folder, max_tokens=10)
    source = talk("p" * size, "yes")

    rendered = one(template, source)

    expected = template.tokenizer.hf("p" * min(size, 4), "yes")
    assert rendered.ids.tolist() == expected["input_ids"]
    assert rendered.segments.tolist() == expected["token_type_ids"]


def test_a_model_without_segments_reads_none_whatever_its_tokenizer_says(tmp_path):
    """DeBERTa's tokenizer tells segments apart, and most of its models don't."""
    folder = tokenizers.make(tmp_path, config={"type_vocab_size": 0}, **SEGMENTED)
    sources = [talk("hi", "ho"), Ids((5, 6), segments=(0, 1)), Text("hi")]

    assert [one(Template(folder), source).segments for source in sources] == [None] * 3


@pytest.mark.parametrize(
    ("options", "config", "segments", "last"),
    [
        (SEGMENTED, {"type_vocab_size": 2}, (0, 2), 1),
        (SEGMENTED, {"type_vocab_size": 1}, (0, 1), 0),
        ({}, {}, (0, 1), 0),
    ],
)
def test_segment_ids_that_the_model_has_not_are_refused(tmp_path, options, config, segments, last):
    """An encoder of two, one of one, and a decoder, which has none."""
    template = Template(tokenizers.make(tmp_path, config=config, **options))

    with pytest.raises(InvalidField, match=f"the model's segments end at {last}"):
        one(template, Ids((5, 6), segments=segments))


def test_a_pair_over_the_limit_loses_the_start_of_its_prompt(tmp_path):
    """Where that is asked for: the response stays whole, CLS stays first."""
    template = Template(tokenizers.make(tmp_path, is_encoder=True, chat=None), max_tokens=10)

    rendered = one(template, talk("p" * 50, "yes"), "prompt_start")

    assert rendered.truncated
    assert template.tokenizer.tokens(rendered.ids) == ["<cls>", *"pppp", "<sep>", *"yes", "<sep>"]


def test_the_declared_limit_is_the_smallest_that_is_stated(tmp_path):
    """RoBERTa's positions start behind its padding index."""
    config = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}

    assert Template(tokenizers.make(tmp_path, config=config)).max_tokens == 512


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path):
    """transformers would make do with an empty one; the message names the folder."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')

    with pytest.raises(CheckpointError, match=f"{tmp_path} has no tokenizer"):
        Template(tmp_path)


def test_a_damaged_config_is_blamed_on_itself(tmp_path):
    """Not on the tokenizer, which transformers would read it for."""
    tokenizers.make(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')

    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        Template(tmp_path)


TEXTS = ["ab", "<s>ab", "ab</s>", "<s>ab</s>"]


@pytest.mark.parametrize(("front", "end"), [("<s>", "</s>"), ("<s>", ""), ("", "</s>")])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_gets_what_its_tokenizer_adds_each_once(tmp_path, front, end, text):
    """As servers that tokenize with special tokens have it, and nothing twice."""
    made = tokenizers.make(tmp_path, adds_bos=bool(front), adds_eos=bool(end))
    template = Template(made)

    tokens = "".join(template.tokenizer.tokens(one(template, Text(text, "tokenizer")).ids))

    assert tokens.removeprefix("<s>").removesuffix("</s>") == "ab"
    assert tokens.startswith("<s>") == (front == "<s>" or text.startswith("<s>"))
    assert tokens.endswith("</s>") == (end == "</s>" or text.endswith("</s>"))


@pytest.mark.parametrize("is_encoder", [False, True])
@pytest.mark.parametrize("text", ["ab", "<s>ab</s>"])
def test_a_text_without_special_tokens_is_what_was_sent(tmp_path, text, is_encoder):
    """vLLM's `add_special_tokens: false`."""
    options = {"is_encoder": True} if is_encoder else {"adds_bos": True, "adds_eos": True}
    template = Template(tokenizers.make(tmp_path, **options))

    assert "".join(template.tokenizer.tokens(one(template, Text(text, "none")).ids)) == text


@pytest.mark.parametrize(
    ("spec", "tokens"),
    [
        ({"bos": "none"}, "ab</s>"),
        ({"eos": "ensure"}, "<s>abĠ</s>"),
        ({"append": ["<sep>"]}, "<s>ab<sep>"),
    ],
)
def test_a_card_that_says_how_a_text_begins_or_ends_is_followed(tmp_path, spec, tokens):
    """Its family's authors know better than the tokenizer's defaults."""
    card = Card.model_validate({"template": spec})
    template = Template(tokenizers.make(tmp_path, adds_bos=True, adds_eos=True), card)

    assert "".join(template.tokenizer.tokens(one(template, Text("ab", "tokenizer")).ids)) == tokens


@pytest.mark.parametrize(("specials", "ends"), [("card", ("<s>", "</s>")), ("none", ("[", "</s>"))])
def test_a_conversation_gets_what_its_template_says_unless_none_is_wanted(tmp_path, specials, ends):
    """Natively one BOS in front; with none only what the template writes."""
    template = Template(tokenizers.make(tmp_path, adds_bos=True, adds_eos=True))

    ids = one(template, replace(talk("hi", "ho"), specials=specials)).ids

    tokens = template.tokenizer.tokens(ids)
    assert (tokens[0], tokens[-1], tokens.count("</s>")) == (*ends, 2)


def test_a_text_that_is_cut_keeps_both_ends(tmp_path):
    """From the left, behind BOS; EOS stays last."""
    template = Template(tokenizers.make(tmp_path, adds_bos=True, adds_eos=True), max_tokens=4)

    ids = one(template, Text("abcdef", "tokenizer")).ids

    assert "".join(template.tokenizer.tokens(ids)) == "<s>ef</s>"


@pytest.mark.parametrize(
    ("options", "config", "card", "places"),
    [
        ({}, {}, {}, [2]),
        ({"is_encoder": True}, {}, {}, [0]),
        ({"is_encoder": True}, {"classifier_pooling": "mean"}, {}, []),
        ({"is_encoder": True}, {}, {"read": {"at": "mean"}}, []),
    ],
)
def test_where_an_item_is_read_is_told_before_the_model_is_loaded(
    tmp_path, options, config, card, places
):
    """A decoder at its end, an encoder at its first token or over all, or as a card says."""
    made = tokenizers.make(tmp_path, config=config, **options)
    template = Template(made, Card.model_validate(card))

    assert template.read_positions.places(one(template, Text("abc"))) == places
