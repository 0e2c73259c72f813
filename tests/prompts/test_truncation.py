"""What is cut of an item over the limit is the text of one part; all else stays."""

import pytest

from assay.cards.card import Card
from assay.errors import ItemTooLong
from assay.items import Conversation, Cutting, Solution, Text
from assay.prompts import truncation
from assay.prompts.template import Template
from tests.families import tokenizers as real
from tests.prompts import tokenizers

WORDS = "The café has 12 naïve bees — e=mc², \U0001f600 and so on; line\n two. "
SHORT = "Which one?"
SYSTEM = {"role": "system", "content": "Be kind to bees."}


def turns(prompt, response):
    """Return one exchange as messages."""
    return [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": response},
    ]


def talk(prompt, response):
    """Return one exchange."""
    return Conversation(tuple(turns(prompt, response)))


def one(template, source, cutting=None):
    """Render a single item, raising its error."""
    (rendered,) = template.render_all([source], cutting)
    if isinstance(rendered, Exception):
        raise rendered
    return rendered


def whole(template, source):
    """Return the ids of an item that nothing is cut of."""
    return one(template, source).ids.tolist()


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    """A folder with a tokenizer that merges bytes, and a chat template."""
    folder = tmp_path_factory.mktemp("chatml")
    real.qwen(folder, chat=real.CHATML, words=(" bees", " has", "The", " café", "on", "so"))
    (folder / "config.json").write_text('{"model_type": "qwen2", "vocab_size": 100000}')
    return folder


@pytest.mark.parametrize("limit", [150, 151, 152, 153])
def test_response_end_is_the_template_over_a_shorter_response(chatml, limit):
    """The prompt and the frame stay; no token more could stay."""
    long, reference = WORDS * 9, Template(chatml)

    cut = one(Template(chatml, max_tokens=limit), talk(SHORT, long), "response_end")

    (end,) = [n for n in range(len(long)) if cut.text.endswith(f"\n{long[:n]}<|im_end|>\n")]
    assert cut.cut == "response"
    assert cut.ids.tolist() == whole(reference, talk(SHORT, long[:end]))
    assert limit - 4 < len(cut.ids) <= limit  # an emoji has four tokens


@pytest.mark.parametrize("limit", [150, 152])
def test_prompt_start_is_the_template_over_a_shorter_prompt(chatml, limit):
    """The user's header stays, too."""
    long, reference = WORDS * 9, Template(chatml)

    cut = one(Template(chatml, max_tokens=limit), talk(long, SHORT))

    start = next(n for n in range(len(long)) if f"user\n{long[n:]}<|im_end|>" in cut.text)
    assert cut.cut == "prompt"
    assert cut.ids.tolist() == whole(reference, talk(long[start:], SHORT))
    assert limit - 4 < len(cut.ids) <= limit


def test_of_several_turns_the_oldest_lose_their_text_first(tmp_path):
    """Their frames stay, so that the roles still alternate; the last question stays whole."""
    folder = tokenizers.make(tmp_path)
    source = Conversation((*turns("a" * 40, "b" * 40), *turns("c" * 40, "d" * 10)))
    size = len(whole(Template(folder), source))

    rendered = one(Template(folder, max_tokens=size - 50), source)

    assert rendered.text == (
        f"[user] </s>[assistant] {'b' * 30}</s>[user] {'c' * 40}</s>[assistant] {'d' * 10}</s>"
    )


def test_a_cards_system_text_is_frame(chatml):
    """The model was trained with it; the caller's own system turn is the prompt's start."""
    card = Card.model_validate({"template": {"system": SYSTEM["content"]}})
    sent = Conversation((SYSTEM, *turns(WORDS * 9, SHORT)))

    own = one(Template(chatml, card, max_tokens=150), talk(WORDS * 9, SHORT))
    callers = one(Template(chatml, max_tokens=150), sent)

    assert SYSTEM["content"] in own.text
    assert SYSTEM["content"] not in callers.text


@pytest.mark.parametrize("end", ["", "\nIs it?"])
def test_fixed_strings_are_frame(tmp_path, end):
    """A reranker's instruction behind the document stays, and so does what is before it."""
    strings = {"begin": "Judge. ", "user": "Q: {content} ", "assistant": "D: {content}", "end": end}
    card = Card.model_validate({"template": {"turns": strings}})
    folder = tokenizers.make(tmp_path, chat=None)

    rendered = one(Template(folder, card, max_tokens=40), talk("why", "x" * 90), "response_end")

    kept = 40 - len(f"Judge. Q: why D: {end}")
    assert rendered.text == f"Judge. Q: why D: {'x' * kept}{end}"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("limit", [*range(4, 12), 40, 41])
@pytest.mark.parametrize(("asks", "says"), [(3, 90), (90, 3), (30, 31), (31, 30), (20, 20)])
def test_a_pair_is_cut_as_its_tokenizer_cuts(tmp_path, side, limit, asks, says):
    """Longest first, token for token, at the end that the tokenizer cuts."""
    folder = tokenizers.make(tmp_path, is_encoder=True, chat=None)
    template = Template(folder, max_tokens=limit)
    template.tokenizer.hf.truncation_side = side
    prompt, response = ("abcdefghij" * 9)[:asks], ("0123456789" * 9)[:says]

    rendered = one(template, talk(prompt, response))

    reference = Template(folder, max_tokens=limit).tokenizer.hf
    reference.truncation_side = side
    expected = reference(prompt, response, truncation=True, max_length=limit)["input_ids"]
    assert rendered.ids.tolist() == expected


def test_a_pairs_response_is_cut_beside_its_prompt(tmp_path):
    """Query and separator stay where only the response may be cut."""
    template = Template(tokenizers.make(tmp_path, is_encoder=True, chat=None), max_tokens=12)

    rendered = one(template, talk("why", "x" * 50), "response_end")

    expected = ["<cls>", *"why", "<sep>", *"xxxxxx", "<sep>"]
    assert (template.tokenizer.tokens(rendered.ids), rendered.cut) == (expected, "response")


@pytest.mark.parametrize(
    ("cutting", "prompt", "response", "cut"),
    [
        ("longest_first", "p" * 90, "r" * 9, "prompt"),
        ("longest_first", "p" * 9, "r" * 90, "response"),
        ("longest_first", "p" * 90, "r" * 90, "both"),
        ("response_end", "p" * 90, "r" * 9, "prompt"),
        (Cutting("longest_first", "start"), "p" * 9, "r" * 90, "response"),
        (Cutting("longest_first", response_tokens=4), "p" * 9, "r" * 90, "response"),
        (Cutting("longest_first", response_tokens=4), "p" * 90, "r" * 9, "both"),
    ],
)
def test_with_longest_first_any_texts_fit(tmp_path, cutting, prompt, response, cut):
    """Whichever is the longer; and `response_end` cuts the prompt where that alone is too long."""
    template = Template(tokenizers.make(tmp_path), max_tokens=50)

    rendered = one(template, talk(prompt, response), cutting)

    assert rendered.cut == cut
    assert rendered.text.startswith("[user] p")
    assert rendered.text.endswith("r</s>")
    assert len(rendered.ids) <= 50


def test_which_end_goes_can_be_said(tmp_path):
    """TEI's direction: the start of either text, or its end."""
    template = Template(tokenizers.make(tmp_path), max_tokens=40)
    source = talk("why", "abc" * 40)

    left = one(template, source, Cutting("longest_first", "start")).text
    right = one(template, source, Cutting("longest_first", "end")).text

    assert left.endswith("abcabc</s>")
    assert right.startswith("[user] why</s>[assistant] abcabc")


@pytest.mark.parametrize(
    ("side", "expected"),
    [(None, "f" * 8 + "</s>"), ("start", "f" * 8 + "</s>"), ("end", "ab" + "f" * 6 + "</s>")],
)
def test_a_text_keeps_what_is_read(tmp_path, side, expected):
    """Its end, wherever it is cut; the text is that behind the ids."""
    template = Template(tokenizers.make(tmp_path, adds_bos=True), max_tokens=10)

    rendered = one(template, Text("ab" + "f" * 50 + "</s>"), Cutting(side=side))

    assert "".join(template.tokenizer.tokens(rendered.ids)).removeprefix("<s>") == rendered.text
    assert rendered.text == expected
    assert (rendered.cut, len(rendered.ids)) == ("text", 10)


def test_a_prompt_of_steps_is_cut_and_no_step(tmp_path):
    """Whatever the request says: each step has a score."""
    card = Card.model_validate(
        {
            "steps": {"between": "\n"},
            "read": {"at": "pattern", "pattern": ["o"], "which": "all"},
        }
    )
    folder = tokenizers.make(tmp_path, chat="{% for m in messages %}[{{ m.content }}]{% endfor %}")
    source = Solution(({"role": "user", "content": "q" * 60},), ("one", "to"))
    size = len(whole(Template(folder, card), source))
    template = Template(folder, card, max_tokens=size - 20)

    rendered = one(template, source, "response_end")

    assert (rendered.cut, len(rendered.ids)) == ("prompt", size - 20)
    assert rendered.text.startswith(f"[{'q' * 40}")
    assert {"one", "to"} <= set(rendered.text.replace("]", "\n").replace("[", "\n").split("\n"))
    with pytest.raises(ItemTooLong, match="the steps alone"):
        one(Template(folder, card, max_tokens=7), source, "longest_first")


def test_turns_of_parts_are_cut_as_parts():
    """Of content in parts of text, or of none, what stays has the same form."""
    parts = [{"type": "text", "text": "ab"}, {"type": "text", "text": "cd"}]
    asked = ({"role": "user", "content": parts}, {"role": "tool"})
    source = Conversation((*asked, {"role": "assistant", "content": "ef"}))
    texts = truncation.Texts.of(source, truncation.words)

    cut = texts.shortened(3, 2, truncation.Sides())

    assert cut.messages[0]["content"] == [{"type": "text", "text": "\ncd"}]
    assert cut.messages[1:] == source.messages[1:]


def test_a_frame_that_leaves_no_room_is_an_error(tmp_path):
    """Nothing over the limit is ever returned."""
    template = Template(tokenizers.make(tmp_path), max_tokens=8)

    for rule in ("prompt_start", "response_end", "longest_first"):
        with pytest.raises(ItemTooLong):
            one(template, talk("hi", "ho"), rule)


def test_a_document_of_a_million_characters_is_cut(tmp_path):
    """Where responses may be cut, none is too long, and none is tokenized whole."""
    template = Template(tokenizers.make(tmp_path), max_tokens=40)
    seen = []
    spans = template.tokenizer.spans
    template.tokenizer.spans = lambda text: seen.append(len(text)) or spans(text)

    rendered = one(template, talk("hi", "r" * 3_000_000), "longest_first")

    assert (len(rendered.ids), rendered.cut) == (40, "response")
    assert max(seen) <= 40 * template.tokenizer.longest_token


@pytest.mark.parametrize(
    ("first", "second", "room", "expected"),
    [
        (3, 9, 8, (3, 5)),
        (9, 3, 8, (5, 3)),
        (9, 9, 7, (3, 4)),
        (10, 9, 7, (4, 3)),
        (2, 2, 9, (2, 2)),
    ],
)
def test_the_longer_text_goes_first(first, second, room, expected):
    """Then both to the same length, the odd token to the longer one, or to the second."""
    assert truncation.longest_first(first, second, room) == expected


@pytest.mark.parametrize("slack", [0, 1, 3, -2])
def test_the_search_finds_what_just_fits(slack):
    """Though a text that was cut may be tokenized a little otherwise."""
    tried = []

    def excess(removed):
        tried.append(removed)
        return 500 - removed + (slack if removed % 2 else 0)

    found = truncation.fewest(500, 900, excess)

    assert excess(found) <= 0
    assert found <= 503
    assert len(tried) < 10
    assert truncation.fewest(5, 3, lambda removed: 5 - removed) is None


def test_an_end_that_generation_did_not_reach_is_known(chatml):
    """Text and ids are read at their last token, whatever it is."""
    template = Template(chatml)
    text = one(template, talk("Hi", "Ho")).text

    ends = [one(template, Text(one_text)) for one_text in (text, text[:-1], text[:-15])]

    assert [rendered.ends_as_expected for rendered in ends] == [True, False, False]
    assert one(template, talk("Hi", "Ho")).ends_as_expected
