"""What a conversation carries beside role and content, on every route and in every adapter."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from assay.client.adapters import areal, its_hub, reward_hub, slime, swift, trl, verifiers, verl
from tests.contract.served import post
from tests.http import checkpoints
from tests.http.processes import serving
from tests.prompts.test_chat import AGENT, CALL, DOCUMENTS, TALK, TOOLS
from tests.prompts.test_roles import RERANKER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.http.processes import Server

STYLE = {"style": "brief"}
INPUTS = {"tools": TOOLS, "documents": DOCUMENTS, "chat_template_kwargs": STYLE}
RESPONSE = "It is 2."
LINK = {"type": "function", "id": "x", "function": {**CALL["function"], "arguments": '{"a": 1}'}}  # type: ignore[dict-item]
SPELT = [TALK[0], {**TALK[1], "tool_calls": [LINK]}, *TALK[2:]]  # as OpenAI's clients send it
TOLERANCE = 1e-5  # float32, as everywhere: sums in another order


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints: `agent`, whose template renders all, `tiny`, and `asks` with other roles."""
    root = tmp_path_factory.mktemp("carried")
    tiny = checkpoints.build(root / "tiny")
    checkpoints.copy(tiny, root / "agent")
    (root / "agent" / "chat_template.jinja").write_text(AGENT)
    checkpoints.copy(tiny, root / "asks")
    (root / "asks" / "chat_template.jinja").write_text(RERANKER)
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    """A server of all; `agent` is the default."""
    with serving(root / "run", root / "agent", root / "tiny", root / "asks") as running:
        yield running


@pytest.fixture(scope="module")
def offline(root: Path) -> Callable[..., float]:
    """What the model itself says: transformers' template, eager, a batch of one."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(root / "agent")
    model = transformers.Qwen3ForSequenceClassification.from_pretrained(
        root / "agent", attn_implementation="eager", dtype=torch.float32
    ).eval()

    def score(messages: list[dict[str, Any]], **inputs: Any) -> float:
        variables = inputs.pop("chat_template_kwargs", {})
        ids = tokenizer.apply_chat_template(
            messages, return_tensors="pt", return_dict=False, **inputs, **variables
        )
        with torch.no_grad():
            return model(ids).logits[0, 0].item()  # type: ignore[no-any-return]

    return score


def test_native_routes_score_what_transformers_renders(
    server: Server, offline: Callable[..., float]
) -> None:
    """`/score` with messages or prompt, of item and request; `/compare`; `/best-of-n`."""
    expected = offline(TALK, **INPUTS)
    assert abs(expected - offline(TALK)) > 1e-3  # the inputs do change it
    assert abs(expected - offline([TALK[0], TALK[3]], **INPUTS)) > 1e-3
    prompt = TALK[:3]

    found = [
        post(server, "/score", inputs=[{"messages": TALK}], **INPUTS)["data"][0]["score"],
        post(server, "/score", inputs={"messages": SPELT, **INPUTS})["data"][0]["score"],
        post(server, "/score", prompt=prompt, response=RESPONSE, **INPUTS)["data"][0]["score"],
        *(
            post(server, "/compare", prompt=prompt, chosen=RESPONSE, rejected="3", **INPUTS)[
                "data"
            ][0]["scores"][:1]
        ),
        post(server, "/best-of-n", groups=[{"prompt": prompt, "responses": [RESPONSE], **INPUTS}])[
            "data"
        ][0]["best"]["score"],
    ]

    assert found == [pytest.approx(expected, abs=TOLERANCE)] * 5
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("path", "body", "read"),
    [
        ("/classify", {"messages": SPELT, **INPUTS}, lambda a: a["data"][0]["probs"][0]),
        ("/pooling", {"messages": SPELT, **INPUTS}, lambda a: a["data"][0]["data"][0]),
        ("/v1/classify", {"messages": SPELT, **INPUTS}, lambda a: a["data"][0]["probs"][0]),
        (
            "/v1/chat/completions",
            {"messages": SPELT, **INPUTS},
            lambda a: a["choices"][0]["logprobs"]["content"][0]["logprob"],
        ),
        ("/reward", {"prompt": SPELT[:3], "response": RESPONSE, **INPUTS}, lambda a: a),
    ],
)
def test_foreign_routes_score_what_transformers_renders(
    server: Server,
    offline: Callable[..., float],
    path: str,
    body: dict[str, Any],
    read: Callable[[Any], float],
) -> None:
    """With arguments as JSON strings, as OpenAI's clients send them."""
    assert read(post(server, path, **body)) == pytest.approx(offline(TALK, **INPUTS), abs=TOLERANCE)


def test_contracts_without_tools_score_their_conversations(
    server: Server, offline: Callable[..., float]
) -> None:
    """SGLang's `conv`, NeMo Gym's history, OpenAI's decisions with calls of functions."""
    expected = pytest.approx(offline(TALK), abs=TOLERANCE)
    history, other = SPELT[:3], {"output": [{"type": "message", "content": "3"}]}
    said = {"output": [{"type": "message", "content": RESPONSE}]}
    items = [
        {"role": "user", "content": TALK[0]["content"]},
        {"type": "function_call", "call_id": "x", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "x", "output": "2"},
    ]
    choice = {
        "type": "choice",
        "instructions": "",
        "choices": [{"value": RESPONSE}, {"value": "3"}],
    }

    conv = post(server, "/classify", conv=[SPELT])[0]["embedding"]
    met = post(server, "/compare", conversation_history=history, response_objs=[said, other])
    decided = post(server, "/v1/decisions", input=items, questions=[choice])

    assert conv == [expected]
    assert met["rewards"][0] == expected
    (one, two) = (p["probability"] for p in decided["answers"][0]["probabilities"])
    margin = offline(TALK) - offline([*TALK[:3], {"role": "assistant", "content": "3"}])
    assert torch.logit(torch.tensor(one)).item() == pytest.approx(margin, abs=1e-4)
    assert one + two == pytest.approx(1)


def test_turns_in_the_templates_own_roles_are_taken(server: Server) -> None:
    """On every contract of conversations, as natively; by both names the number is one."""
    turns = [{"role": "query", "content": "Hi"}, {"role": "document", "content": "Ho"}]
    body: dict[str, Any] = {"model": "asks", "messages": turns}
    (native,) = post(server, "/score", model="asks", prompt="Hi", response="Ho")["data"]

    (nim,) = post(server, "/v1/chat/completions", **body)["choices"]
    (swift_s,) = post(server, "/swift/v1/chat/completions", **body)["choices"]
    found = [
        nim["logprobs"]["content"][0]["logprob"],
        swift_s["message"]["content"],
        *(
            post(server, path, **body)["data"][0]["probs"][0]
            for path in ("/classify", "/v1/classify")
        ),
        *post(server, "/pooling", **body)["data"][0]["data"],
        *post(server, "/classify", model="asks", conv=turns)["embedding"],
    ]

    assert found == [native["score"]] * 6
    ends = {**body, "messages": turns[::-1]}
    answer = server.http.post("/v1/chat/completions", json=ends)
    assert answer.status_code == 422
    assert "calls 'document'" in answer.text


def test_tokenize_shows_it(server: Server) -> None:
    """The native route and vLLM's."""
    (native,) = post(server, "/tokenize", inputs={"messages": TALK}, **INPUTS)["data"]
    vllm = post(server, "/tokenize", messages=SPELT, **INPUTS)

    assert native["text"].startswith("<tools>")
    assert "<call>add a=1</call>" in native["text"]
    assert vllm["tokens"] == native["input_ids"]


REFUSED = [
    ("/score", {"inputs": [{"messages": TALK}]}, "inputs[0].messages[1].tool_calls"),
    ("/score", {"prompt": TALK[:3], "response": "2"}, "inputs[0].prompt[1].tool_calls"),
    ("/score", {"prompt": "a", "response": "b", "tools": TOOLS}, "tools"),
    ("/score", {"inputs": {"prompt": "a", "response": "b", "tools": TOOLS}}, "inputs[0].tools"),
    (
        "/compare",
        {"prompt": TALK[:3], "chosen": "2", "rejected": "3"},
        "comparisons[0].prompt[1].tool_calls",
    ),
    ("/best-of-n", {"prompt": "a", "responses": ["2"], "documents": DOCUMENTS}, "documents"),
    ("/classify", {"messages": SPELT}, "messages[1].tool_calls"),
    ("/pooling", {"messages": TALK[::3], "tools": TOOLS}, "tools"),
    ("/classify", {"input": "a", "tools": TOOLS}, "tools"),
    ("/classify", {"messages": TALK[::3], "add_generation_prompt": True}, "add_generation_prompt"),
    ("/v1/chat/completions", {"messages": SPELT}, "messages[1].tool_calls"),
    ("/v1/score", {"queries": "a", "documents": ["b"], "chat_template_kwargs": STYLE}, "style"),
    ("/rerank", {"query": "a", "documents": ["b"], "chat_template_kwargs": STYLE}, "style"),
    ("/classify", {"conv": [SPELT]}, "conv[0][1].tool_calls"),
    ("/reward", {"prompt": SPELT[:3], "response": "2"}, "prompt[1].tool_calls"),
    (
        "/compare",
        {"conversation_history": SPELT[:3], "response_objs": [{"output": []}] * 2},
        "conversation_history[1].tool_calls",
    ),
    (
        "/v1/systemone",
        {
            "state": "a",
            "questions": {"q": {"type": "choice", "criteria": {"b": None}}},
            "chat_template_kwargs": STYLE,
        },
        "style",
    ),
]


@pytest.mark.parametrize(("path", "body", "field"), REFUSED)
def test_what_a_template_does_not_render_is_refused_by_its_path(
    server: Server, path: str, body: dict[str, Any], field: str
) -> None:
    """Never scored without it."""
    answer = server.http.post(path, json={**body, "model": "tiny"})

    assert answer.status_code in (400, 422), answer.text
    assert field in answer.text


IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        (
            "/score",
            "inputs[0].messages[0].content[1]",
            lambda talk: {"inputs": [{"messages": talk}]},
        ),
        ("/v1/chat/completions", "messages[0].content[1]", lambda talk: {"messages": talk}),
        ("/classify", "messages[0].content[1]", lambda talk: {"messages": talk}),
        ("/classify", "conv[0].content[1]", lambda talk: {"conv": talk}),
        ("/reward", "prompt[0].content[1]", lambda talk: {"prompt": talk[:1], "response": "x"}),
    ],
)
@pytest.mark.parametrize("part", [IMAGE, {"type": "input_audio", "input_audio": {}}, {"type": "x"}])
def test_parts_that_are_not_text_are_refused_by_their_path(
    server: Server, path: str, field: str, body: Callable[[Any], dict[str, Any]], part: Any
) -> None:
    """A reward of the text alone would be another conversation's."""
    talk = [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}, TALK[3]]

    answer = server.http.post(path, json=body(talk))

    assert answer.status_code in (400, 422), answer.text
    assert field in answer.text


def test_a_bad_item_leaves_the_others_theirs(server: Server, offline: Callable[..., float]) -> None:
    """With `on_error: item`, whatever the template makes of it."""
    bad = {
        **TALK[1],
        "tool_calls": [{"function": {"name": "add", "arguments": [1]}}],
    }  # no .items()
    inputs = [{"messages": TALK}, {"messages": [TALK[0], bad]}]

    good, failed = post(server, "/score", inputs=inputs, on_error="item")["data"]

    assert good["score"] == pytest.approx(offline(TALK), abs=TOLERANCE)
    assert failed["error"]["code"] == "template_refused"


async def test_a_tool_conversation_is_scored_in_every_adapter(
    server: Server, offline: Callable[..., float]
) -> None:
    """As dictionaries, as objects, with arguments as objects or as JSON, with the data's tools.

    OpenRLHF's and search-and-learn's adapters take strings only, and open-instruct's takes lines
    of "role: content", which have no calls: their own tests say what they make of them.
    """
    url = server.url
    expected = pytest.approx(offline(TALK), abs=TOLERANCE)
    with_tools = pytest.approx(offline(TALK, tools=TOOLS), abs=TOLERANCE)
    prompt, completion = SPELT[:1], SPELT[1:]
    objects = [SimpleNamespace(**turn) for turn in SPELT]
    chats = SimpleNamespace(to_chat_messages=lambda: objects)
    of_swift = [
        TALK[0],
        {"role": "tool_call", "content": json.dumps(CALL["function"])},
        {"role": "tool_response", "content": "2"},
        TALK[3],
    ]

    assert trl.reward(url)(prompts=[prompt], completions=[completion]) == [expected]
    assert await trl.async_reward(url)(
        prompts=[prompt] * 2, completions=[completion] * 2, tools=[TOOLS, None]
    ) == [with_tools, expected]
    assert trl.reward(url, tools=TOOLS)(prompts=[prompt], completions=[completion]) == [with_tools]
    assert await verifiers.reward(url)(prompt=prompt, completion=objects[1:]) == expected
    assert await verifiers.trace_reward(url)(SimpleNamespace(messages=objects)) == expected
    assert its_hub.reward(url).score(chats) == expected
    assert reward_hub.reward(url).score(SPELT) == expected
    assert verl.reward(url)("", RESPONSE, "", {"prompt": SPELT[:3]}) == expected
    row = {"messages": SPELT[:3], "answer": "2"}
    of_areal = areal.reward(url, verbatim=False)
    assert of_areal("templated", RESPONSE, [1], [2], **row) == expected
    for metadata, found in (({}, expected), ({"tools": TOOLS}, with_tools)):
        sample = SimpleNamespace(prompt=SPELT[:3], response=RESPONSE, metadata=metadata)
        assert await slime.reward(url)(SimpleNamespace(), sample) == found
    assert swift.reward(url)()([RESPONSE], messages=[of_swift]) == [expected]
    assert swift.reward(url)()([RESPONSE], messages=[of_swift], tools=[json.dumps(TOOLS)]) == [
        with_tools
    ]
