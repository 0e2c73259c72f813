"""Every turn comes through the template, whatever it calls those who speak."""

import pytest

from assay.cards.card import Card
from assay.errors import CheckpointError, InvalidField, TemplateRefused
from assay.items import Conversation, Solution
from assay.prompts import roles
from assay.prompts.template import Template
from tests.prompts import tokenizers

RERANKER = (  # as sentence-transformers and vLLM have them for rerankers
    "{% set i = messages | selectattr('role', 'eq', 'instruction') | map(attribute='content')"
    " | first | default('judge') %}"
    "<s>{{ i }} Q: {{ (messages | selectattr('role', 'eq', 'query') | first).content }}"
    " D: {{ (messages | selectattr('role', 'eq', 'document') | first).content }}</s>"
)
LOOP = (
    "{% for m in messages %}{% if m['role'] == 'human' %}H: {{ m['content'] }}"
    "{% elif m.role in ['gpt'] %}G: {{ m.content }}{% endif %}{% endfor %}"
)
LOWER = (
    "{% for m in messages %}{% set role = m.role | lower %}"
    "{% if role == 'question' %}{{ m.content | lower }} {% elif role == 'passage' %}"
    "{{ m.content | upper }}{% endif %}{% endfor %}"
)
TABLE = (
    "{% set marks = {'query': 'Q: ', 'document': 'D: '} %}"
    "{% for m in messages %}{{ marks[m.role] }}"
    "{% if m.role in marks %}{{ m.content }}{% endif %}{% endfor %}"
)
RAISES = (
    "{% for m in messages %}{% if m.role not in ['query', 'document'] %}"
    "{{ raise_exception('a query and a document') }}{% endif %}{{ m.content }} {% endfor %}"
)
AMBIGUOUS = (
    "{% for m in messages %}{% if m.role == 'query' or m.role == 'question' %}Q{{ m.content }}"
    "{% elif m.role == 'document' %}D{{ m.content }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}"
    "[{{ m.role }}] {{ m.content }}</s>{% endif %}{% endfor %}"
)
LAST_USER = (
    "{{ (messages | selectattr('role', 'eq', 'user') | list)[-1].content }}</s>"
    "{{ messages[-1].content }}</s>"
)
AFTER_THINKING = (
    "{% for m in messages %}{% set c = m.content %}{% if '</think>' in c %}"
    "{% set c = c.split('</think>')[-1] %}{% endif %}[{{ m.role }}] {{ c }}</s>{% endfor %}"
)


def talk(*turns):
    """Return a conversation of (role, content)."""
    return Conversation(tuple({"role": role, "content": content} for role, content in turns))


USUAL = talk(("user", "hi"), ("assistant", "ho"))


def made(folder, chat, card=None, **options):
    """Return a template over a byte-level tokenizer."""
    return Template(tokenizers.make(folder, chat=chat, **options), card)


def ids(template, source):
    """Render one item, raising its error."""
    (rendered,) = template.render_all([source])
    if isinstance(rendered, Exception):
        raise rendered
    return rendered.ids.tolist()


def reference(template, *turns):
    """Return what transformers gives for a conversation in the template's own roles."""
    text = template.tokenizer.hf.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns], tokenize=False
    )
    return template.tokenizer.hf(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("chat", "asks", "answers"),
    [
        (RERANKER, "query", "document"),
        (LOOP, "human", "gpt"),
        (LOWER, "question", "passage"),
        (TABLE, "query", "document"),
        (RAISES, "query", "document"),
    ],
)
def test_plain_role_names_are_recognised(tmp_path, chat, asks, answers):
    """Our roles and the template's own give the ids that transformers gives for its own."""
    template = made(tmp_path, chat)
    expected = reference(template, (asks, "hi"), (answers, "ho"))

    template.check(USUAL)

    assert ids(template, USUAL) == expected
    assert ids(template, talk((asks, "hi"), (answers, "ho"))) == expected
    assert ids(template, talk(("user", "hi"), ("assistant", "no"))) != expected


def test_an_instruction_is_the_system_turn(tmp_path):
    """By either name."""
    template = made(tmp_path, RERANKER)
    expected = reference(template, ("instruction", "be kind"), ("query", "hi"), ("document", "ho"))

    assert ids(template, talk(("system", "be kind"), *pairs(USUAL))) == expected
    assert ids(template, talk(("instruction", "be kind"), *pairs(USUAL))) == expected


def pairs(source):
    """Return a conversation's (role, content)."""
    return [(turn["role"], turn["content"]) for turn in source.messages]


@pytest.mark.parametrize(
    ("chat", "lost"),
    [
        (AMBIGUOUS, "'user', 'assistant'.*'query', 'question', 'document'"),
        ("{{ messages[0].content }}", "'assistant'"),
        ("{{ messages[-1].content }}", "'user'"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "'user', 'assistant'"),
    ],
)
def test_a_template_that_swallows_a_turn_is_refused_with_its_roles(tmp_path, chat, lost):
    """Three documents would have one score, with status 200."""
    with pytest.raises(CheckpointError, match=f"leaves out what is said by {lost}"):
        made(tmp_path, chat).check(USUAL)


def test_a_card_says_whose_role_is_whose(tmp_path):
    """Where the names aren't plain; both names are taken."""
    card = Card.model_validate(
        {"template": {"roles": {"user": "question", "assistant": "document"}}}
    )
    template = made(tmp_path, AMBIGUOUS, card)

    template.check(USUAL)

    assert ids(template, USUAL) == reference(template, ("question", "hi"), ("document", "ho"))


def test_a_card_whose_roles_lose_a_turn_is_refused(tmp_path):
    """What a card states is checked, too."""
    card = Card.model_validate({"template": {"roles": {"user": "human", "assistant": "nobody"}}})

    with pytest.raises(CheckpointError, match="leaves out what is said by 'assistant'"):
        made(tmp_path, LOOP, card).check(USUAL)


@pytest.mark.parametrize(
    "chat",
    [tokenizers.CHAT, NO_SYSTEM, AFTER_THINKING, LAST_USER, None],
)
def test_usual_templates_are_left_alone(tmp_path, chat):
    """Nothing is renamed, and nothing refused, where one exchange comes through."""
    template = made(tmp_path, chat)

    template.check(USUAL)

    assert template.chat_format.roles == {}


@pytest.mark.parametrize(
    ("chat", "source", "place"),
    [
        (NO_SYSTEM, talk(("system", "s"), *pairs(USUAL)), "turn 1 of 3, of the role 'system'"),
        (LAST_USER, talk(*pairs(USUAL), *pairs(USUAL)), "turn 1 of 4, of the role 'user'"),
        (RERANKER, talk(("query", "a"), *pairs(USUAL)), "turn 2 of 3, of the role 'user'"),
    ],
)
def test_a_conversation_of_which_a_turn_would_be_lost_is_refused(tmp_path, chat, source, place):
    """The score would not be of what was sent; its neighbours are scored."""
    template = made(tmp_path, chat)

    refused, fine = template.render_all([source, USUAL])

    assert isinstance(refused, TemplateRefused)
    assert f"leaves out {place}" in refused.message
    assert len(fine.ids) > 4


def test_a_cards_system_text_that_would_be_lost_is_refused(tmp_path):
    """The card says that the model was trained with it."""
    card = Card.model_validate({"template": {"system": "Be brief."}})

    with pytest.raises(CheckpointError, match="leaves out what is said by 'system'"):
        made(tmp_path, NO_SYSTEM, card).check(USUAL)


@pytest.mark.parametrize(
    ("card", "source", "lost"),
    [
        ({"template": {"turns": {"user": "Q", "assistant": "{content}"}}}, USUAL, "'user'"),
        (
            {"steps": {"form": "separate", "prompt": "Do."}, "read": {"at": "steps"}},
            Solution(USUAL.messages[:1], ("Hello", "Hi")),
            "'user'",
        ),
    ],
)
def test_a_card_that_forgets_a_placeholder_is_refused(tmp_path, card, source, lost):
    """Fixed strings swallow turns and steps as well as templates do."""
    with pytest.raises(CheckpointError, match=f"leaves out what is said by {lost}"):
        made(tmp_path, tokenizers.CHAT, Card.model_validate(card)).check(source)


def test_a_conversation_ends_with_the_turn_to_score(tmp_path):
    """Whatever the template calls it."""
    template = made(tmp_path, RERANKER)

    with pytest.raises(InvalidField, match=r"must end with the assistant turn.*'document'"):
        ids(template, talk(("document", "ho"), ("query", "hi")))


def test_a_template_that_cannot_be_parsed_looks_for_nothing():
    """transformers says what is wrong with it."""
    assert roles.looked_for("{% for m in %}") == ()
    assert roles.looked_for("{% generation %}{{ m.role == 'x' }}{% endgeneration %}") == ("x",)
