"""What a conversation carries reaches the chat template, or is refused by its name."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from assay import wire
from assay.cards.card import Card
from assay.errors import AssayError, CheckpointError, InvalidField, TemplateRefused
from assay.items import Conversation, Solution, TokenizedItem
from assay.prompts.chat import ChatTemplate
from assay.prompts.chunking import estimate, identity
from assay.prompts.template import Template
from assay.prompts.time_limit import Overrun, TimeLimit
from assay.scoring import items
from tests.prompts import tokenizers

if TYPE_CHECKING:
    from pathlib import Path

# As Qwen's: tools in front, calls as JSON, results without their ids, reasoning, parts of text.
AGENT = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
    "{% for d in documents or [] %}<doc>{{ d.title }}: {{ d.text }}</doc>{% endfor %}"
    "{% if style is defined %}<style>{{ style }}</style>{% endif %}"
    "{% for m in messages %}[{{ m.role }}"
    "{% if m.name is defined and m.role == 'user' %} {{ m.name }}{% endif %}] "
    "{% if m.reasoning_content is defined %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{% if m.content is string %}{{ m.content }}"
    "{% elif m.content is defined %}"
    "{% for p in m.content %}{{ p.text if p.type == 'text' }}|{% endfor %}{% endif %}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}"
    "{% for k, v in c.function.arguments.items() %} {{ k }}={{ v | tojson }}{% endfor %}</call>"
    "{% endfor %}</s>{% endfor %}"
)
DATED = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d') %}{% endif %}"
    "{{ date_string }}"
)
CALL = {"type": "function", "id": "call00001", "function": {"name": "add", "arguments": {"a": 1}}}
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "2", "tool_call_id": "call00001", "name": "add"},
    {"role": "assistant", "content": "It is 2."},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
DOCUMENTS = [{"title": "Sums", "text": "1 + 1 = 2."}]
ASKED: list[dict[str, Any]] = TALK[:1]
SAID: list[dict[str, Any]] = TALK[3:]


def rendered(folder: Path, item: dict[str, Any], card: Card | None = None, **request: Any) -> Any:
    """Return what a template makes of one native item; raise its error."""
    asked = wire.ScoreRequest(inputs=[wire.Item.model_validate(item)], **request)
    assert asked.inputs is not None
    (one,) = Template(folder, card).render_all(items.sources_of(asked.inputs, asked))
    if isinstance(one, AssayError):
        raise one
    return one


def theirs(folder: Path, messages: list[dict[str, Any]], **inputs: Any) -> str:
    """Return what transformers makes of a conversation."""
    text: str = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, tokenize=False, **inputs
    )
    return text


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    """A tokenizer whose template renders all that a conversation may carry."""
    return tokenizers.make(tmp_path, chat=AGENT)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A tokenizer whose template renders role and content."""
    chat = "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}"
    return tokenizers.make(tmp_path, chat=chat)


@pytest.mark.parametrize(
    ("messages", "inputs"),
    [
        (TALK, {}),
        (TALK, {"tools": TOOLS}),
        ([*ASKED, {**SAID[0], "reasoning_content": "One and one."}], {}),
        ([*ASKED, {**SAID[0], "reasoning": "One and one."}], {}),
        ([{**ASKED[0], "name": "Ada"}, *SAID], {}),
        ([*ASKED, *SAID], {"documents": DOCUMENTS, "chat_template_kwargs": {"style": "brief"}}),
        ([{"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]}, *SAID], {}),
        (TALK[:2], {"tools": TOOLS}),
    ],
)
def test_all_that_a_conversation_carries_reads_as_transformers_writes_it(
    agent: Path, messages: list[dict[str, Any]], inputs: dict[str, Any]
) -> None:
    """Of the request or of the item, to the last token."""
    variables = {k: v for k, v in inputs.items() if k != "chat_template_kwargs"}
    text = theirs(agent, messages, **variables, **inputs.get("chat_template_kwargs", {}))

    of_request = rendered(agent, {"messages": messages}, **inputs)
    of_item = rendered(agent, {"messages": messages, **inputs})

    assert of_request.text == text
    assert of_request.ids.tolist() == of_item.ids.tolist()
    assert "".join(Template(agent).tokenizer.tokens(of_item.ids)).replace("Ġ", " ") == text


def test_arguments_that_are_a_json_string_are_parsed(agent: Path) -> None:
    """As vLLM and SGLang do before the template, which goes through them."""
    function = {"name": "add", "arguments": json.dumps(CALL["function"]["arguments"])}  # type: ignore[index]
    spelt = [TALK[0], {**TALK[1], "tool_calls": [{**CALL, "function": function}]}, *TALK[2:]]

    assert rendered(agent, {"messages": spelt}).text == theirs(agent, TALK)


def test_parts_are_lines_where_the_template_takes_strings(plain: Path) -> None:
    """As vLLM joins them; never Python's own spelling of a list."""
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]

    text = rendered(plain, {"messages": [{"role": "user", "content": parts}, *SAID]}).text

    assert text == theirs(plain, [{"role": "user", "content": "a\nb"}, *SAID])


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"messages": TALK}, "messages[1].tool_calls"),
        (
            {"messages": [{k: TALK[2][k] for k in ("role", "content", "tool_call_id")}, *SAID]},
            "messages[0].tool_call_id",
        ),
        ({"messages": [{**ASKED[0], "name": "Ada"}, *SAID]}, "messages[0].name"),
        ({"messages": [*ASKED, {**SAID[0], "reasoning": "x"}]}, "messages[1].reasoning"),
        ({"prompt": TALK[:3], "response": "2"}, "messages[1].tool_calls"),
        ({"prompt": "Hi", "response": "Ho", "tools": TOOLS}, "tools"),
        ({"prompt": "Hi", "response": "Ho", "documents": DOCUMENTS}, "documents"),
        (
            {"prompt": "Hi", "response": "Ho", "chat_template_kwargs": {"enable_thinking": False}},
            "chat_template_kwargs.enable_thinking",
        ),
    ],
)
@pytest.mark.parametrize("by", ["template", "turns"])
def test_what_the_template_does_not_render_is_refused_by_its_name(
    plain: Path, item: dict[str, Any], field: str, by: str
) -> None:
    """A template that passes over a call of a tool would score another conversation."""
    turns = {"user": "{content}", "assistant": "{content}"}
    card = Card.model_validate({"template": {"turns": turns}}) if by == "turns" else None

    with pytest.raises(InvalidField) as refused:
        rendered(plain, item, card)

    assert refused.value.param == field
    assert f"'{field}'" in refused.value.message


def test_ids_of_calls_are_taken_where_calls_are_rendered(agent: Path) -> None:
    """Templates like Qwen's tell by the order of turns which call a result answers."""
    assert rendered(agent, {"messages": TALK[2:]}).text == theirs(agent, TALK[2:])


def test_reasoning_that_a_template_drops_from_earlier_turns_is_no_error(tmp_path: Path) -> None:
    """It has a place for it, and leaves it out as in training (Qwen3)."""
    chat = (
        "{% for m in messages %}[{{ m.role }}] {% if loop.last and m.reasoning_content %}"
        "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}</s>{% endfor %}"
    )
    folder = tokenizers.make(tmp_path, chat=chat)
    messages = [*ASKED, {**SAID[0], "reasoning_content": "x"}, *ASKED, *SAID]

    assert rendered(folder, {"messages": messages}).text == theirs(folder, messages)


@pytest.mark.parametrize(
    "name",
    ["messages", "tokenize", "add_generation_prompt", "return_tensors", "chat_template", "tools"],
)
def test_a_variable_of_the_template_cannot_be_what_calls_it(agent: Path, name: str) -> None:
    """Nor a token, nor a function that every template has."""
    for reserved in (name, "bos_token", "self", "strftime_now", "range"):
        with pytest.raises(InvalidField, match="can't be set"):
            rendered(agent, {"messages": [*ASKED, *SAID], "chat_template_kwargs": {reserved: 1}})


def test_a_card_sets_variables_and_a_request_sets_others_instead(agent: Path) -> None:
    """`chat_template_kwargs` under [template]."""
    card = Card.model_validate({"template": {"chat_template_kwargs": {"style": "brief"}}})
    item = {"messages": [*ASKED, *SAID]}

    assert rendered(agent, item, card).text == theirs(agent, item["messages"], style="brief")
    assert (
        rendered(agent, item, card, chat_template_kwargs={"style": "long"}).text
        == theirs(agent, item["messages"], style="long")
    )  # fmt: skip


def test_what_is_carried_counts_and_tells_items_apart(tmp_path: Path) -> None:
    """Limits are checked before anything is rendered; a retry is known by all of it."""
    folder = tokenizers.make(tmp_path, chat=AGENT, config={"max_position_embeddings": 512})
    many = [{"type": "function", "function": {"name": "f", "description": "d" * 2_000_000}}]
    talk = tuple(wire.Message.model_validate(turn).turn() for turn in TALK)
    sources = [Conversation(talk), Conversation(talk[:1] + talk[3:])]
    for inputs in ({"tools": many}, {"documents": many}, {"chat_template_kwargs": {"style": many}}):
        request = wire.Options.model_validate(inputs)
        sources.append(Conversation(talk, items.inputs(request)))
        assert estimate(sources[-1]) > 500_000
        with pytest.raises(AssayError, match="far more than"):
            rendered(folder, {"messages": TALK, **inputs})

    assert len({identity(one) for one in sources}) == len(sources)
    assert estimate(sources[0]) > estimate(Conversation(({**talk[0]}, {**talk[2]}, talk[3])))


def test_steps_carry_what_their_prompt_has(agent: Path) -> None:
    """A process reward model sees the calls before the solution, and no calls in a step."""
    card = Card.model_validate({"steps": {"between": "\n", "split": "\n"}})
    template = Template(agent, card)
    prompt = tuple(wire.Message.model_validate(turn).turn() for turn in TALK[:3])

    (one,) = template.render_all([Solution(prompt, ("a", "b"))])
    (other,) = template.render_all([Conversation((*prompt, {"role": "assistant", "content": "x"}))])

    assert not isinstance(one, AssayError)
    assert one.text == theirs(agent, [*TALK[:3], {"role": "assistant", "content": "a\nb"}])
    assert not isinstance(other, AssayError)
    with pytest.raises(InvalidField, match=r"messages\[1\]\.tool_calls"):
        rendered(agent, {"messages": TALK[:2]}, card)


@pytest.mark.parametrize(
    "raises",
    [
        "{{ 1 // 0 }}",
        "{{ ''.__class__.__mro__ }}",
        "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
        "{{ range(10**9) | list }}",
        "{{ nothing.at.all }}",
        "{{ raise_exception('no') }}",
        "{{ messages | nonesuch }}",
        "{{ '%d' % m }}",
        "{% include 'x' %}",
        "{{ 'x' * 67108864 }}",
    ],
)
def test_whatever_a_template_raises_is_its_refusal_of_that_item(
    tmp_path: Path, raises: str
) -> None:
    """The others are rendered, and a defect of a checkpoint is none of ours."""
    text = "{% for m in messages %}{{ m.content }}{% if m.content == 'bad' %}" + raises
    template = Template(tokenizers.make(tmp_path, chat=text + "{% endif %}{% endfor %}"))
    good, bad = (
        Conversation(({"role": "user", "content": word}, {"role": "assistant", "content": "x"}))
        for word in ("good", "bad")
    )

    outcomes: list[TokenizedItem | AssayError] = template.render_all([good, bad, good])

    assert [isinstance(one, TemplateRefused) for one in outcomes] == [False, True, False]


def test_a_template_that_loops_is_ended(tmp_path: Path) -> None:
    """It holds up the others for seconds, not for ever; what ends in time is never cut off."""
    loop = "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}"
    text = "{% for m in messages %}{{ m.content }}{% if m.content == 'bad' %}" + loop
    folder = tokenizers.make(tmp_path, chat=text + "{% endif %}{% endfor %}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = ChatTemplate(tokenizer, Card().template, TimeLimit(0.3))
    good, bad = (Conversation(({"role": "user", "content": word},)) for word in ("good", "bad"))

    for _ in range(2):
        assert template.apply([good], generation_prompt=False) == ["good"]
        with pytest.raises(Overrun) as overrun:
            template.apply([bad], generation_prompt=False)
        assert "takes too long" in template.refusal(overrun.value).message


def named(folder: Path, **templates: str) -> Path:
    """Write a tokenizer with several chat templates."""
    tokenizers.make(folder, chat=None)
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text())
    said["chat_template"] = [{"name": n, "template": t} for n, t in templates.items()]
    path.write_text(json.dumps(said))
    return folder


def test_several_templates_without_a_default_are_listed_with_the_field_to_choose_by(
    tmp_path: Path,
) -> None:
    """At the start, not as a failure of each conversation."""
    folder = named(tmp_path, rag=tokenizers.CHAT, tool_use=AGENT)

    with pytest.raises(CheckpointError, match=r"no default \(rag, tool_use\).*chat_name = \"rag\""):
        Template(folder)
    with pytest.raises(CheckpointError, match="no chat template 'other'; it has rag, tool_use"):
        Template(folder, Card.model_validate({"template": {"chat_name": "other"}}))


@pytest.mark.parametrize("name", ["default", "rag", "tool_use"])
def test_a_card_chooses_among_several_templates(tmp_path: Path, name: str) -> None:
    """By `chat_name`; else tools get 'tool_use' where there is one, as transformers has it."""
    folder = named(tmp_path, default=AGENT, rag="R" + AGENT, tool_use="T" + AGENT)
    card = Card.model_validate({"template": {"chat_name": name}})
    item = {"messages": TALK}

    assert rendered(folder, item, card).text == theirs(folder, TALK, chat_template=name)
    assert rendered(folder, item).text == theirs(folder, TALK)
    assert rendered(folder, item, tools=TOOLS).text == theirs(folder, TALK, tools=TOOLS)


@pytest.mark.parametrize(
    ("chat", "has_note"),
    [
        ("{{ strftime_now('%d %b %Y') }}", True),
        (DATED, True),
        ("{% if tools %}{{ strftime_now('%d') }}{% endif %}", True),
        ("{% set d = date_string if date_string is defined else '26 Jul 2024' %}{{ d }}", False),
        ("{% if strftime_now is defined %}x{% endif %}", False),
        ("", False),
    ],
)
def test_a_template_that_writes_todays_date_is_noted(
    tmp_path: Path, chat: str, has_note: bool
) -> None:
    """It is of the start, unless a card says; a default date in the template is no such case."""
    folder = tokenizers.make(tmp_path, chat=chat + tokenizers.CHAT)
    template = Template(folder)
    fixed = Card.model_validate({"template": {"chat_template_kwargs": {"date_string": "1"}}})

    assert (template.chat_format.note is not None) == has_note
    if has_note:
        note = str(template.chat_format.note)
        assert f"the day of the start, {template.moment:%Y-%m-%d}" in note
        assert 'date = "2024-07-26" under [template]' in note
    if "date_string" in chat:
        assert Template(folder, fixed).chat_format.note is None
    dated = Card.model_validate({"template": {"date": "2024-07-26"}})
    assert Template(folder, dated).chat_format.note is None


NOW = "{{ strftime_now('%d %b %Y %H:%M:%S.%f') }}"


def test_the_date_is_that_of_the_card_else_of_the_start(tmp_path: Path) -> None:
    """An item's ids don't move with the clock; models of one template have each their own date."""
    folder = tokenizers.make(tmp_path, chat=NOW + tokenizers.CHAT)
    card = Card.model_validate({"template": {"date": "2024-07-26"}})
    moment = datetime(2025, 2, 3, 4, 5, 6, 7)  # noqa: DTZ001  local, as transformers has it
    item = {"prompt": "Hi", "response": "Ho"}

    template, other, dated = (
        Template(folder),
        Template(folder, moment=moment),
        Template(folder, card),
    )
    texts = [
        [str(one.text)[: len("26 Jul 2024 00:00:00.000000")] for one in found]
        for found in (_rendered(one, item) for one in (template, other, dated, template))
    ]

    assert texts[0] == texts[3] == [f"{template.moment:%d %b %Y %H:%M:%S.%f}"] * 2
    assert texts[1] == ["03 Feb 2025 04:05:06.000007"] * 2
    assert texts[2] == ["26 Jul 2024 00:00:00.000000"] * 2


def _rendered(template: Template, item: dict[str, Any]) -> list[TokenizedItem]:
    """Return what comes of an item, and of it again."""
    asked = wire.ScoreRequest(inputs=[wire.Item.model_validate(item)] * 2)
    found = template.render_all(items.sources_of(asked.items(), asked))
    return [one for one in found if isinstance(one, TokenizedItem)]


def test_fixed_strings_have_no_date() -> None:
    """A card that gives them one would promise what isn't so."""
    turns = {"user": "{content}", "assistant": "{content}"}
    with pytest.raises(ValidationError, match="'date' is a chat template's"):
        Card.model_validate({"template": {"turns": turns, "date": "2024-07-26"}})
