"""Every foreign contract as a row: how it is asked for scores, and where its numbers are."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tests.contract.options import softmax
from tests.contract.served import sigmoid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import httpx

    from tests.http.processes import Server

ITEMS_FILE = Path(__file__).parent / "items.json"
PACKED = {"content-type": "application/msgpack"}
NATIVE = {"error": ["code", "message", "retryable"], "request_id": None}  # and a "param", or not
SWIFT = {"error": ["message", "type", "param", "code"], "object": None, "message": None}
OPENAI = {"error": ["message", "type", "param", "code"]}
FLAT = ["object", "message", "type", "param", "code"]
TEI = ["error", "error_type"]
TRITON = ["error"]
NIM = ["object", "error", "message", "detail", "type", "requestId"]
MIXEDBREAD = ["object", "message", "detail"]
DETAIL = ["detail"]
COHERE = {"id": None, "message": None, "error": ["message", "type", "param", "code"]}
Takes = Literal["many", "prompt", "one"]


@dataclass(frozen=True)
class Item:
    """A prompt with a response; `text` is what the model's template makes of them."""

    prompt: str
    response: str

    @property
    def text(self) -> str:
        return (
            f"<|im_start|>user\n{self.prompt}<|im_end|>\n"
            f"<|im_start|>assistant\n{self.response}<|im_end|>"
        )

    @property
    def turns(self) -> list[dict[str, str]]:
        return [
            {"role": "user", "content": self.prompt},
            {"role": "assistant", "content": self.response},
        ]

    @property
    def native(self) -> dict[str, str]:
        return {"prompt": self.prompt, "response": self.response}


@dataclass(frozen=True)
class Case:
    """A contract at a path.

    `body` makes a request of items, `numbers` finds theirs in its answer, in their order, and
    `shown` is the documented transform of a reward, `chosen` that of a request's rewards together.
    A request takes any items, those of one prompt, or one. `where` is where an error says that an
    item is, with its place unless it tells no items apart.
    """

    route: str
    path: str
    body: Callable[[Sequence[Item]], dict[str, Any]]
    numbers: Callable[[Any], list[float]]
    where: str
    error: Any
    shown: Callable[[float], float] = float
    takes: Takes = "many"
    is_text: bool = False  # sends what a template made, which may be cut
    is_packed: bool = False
    name: str = ""
    empty: int = 200
    invalid: int = 422
    broken: int = 500
    has_model: bool = True  # heeds the name it is given
    wrong: Any = None  # the error of a request that is wrong, where its form is another
    chosen: Callable[[list[float]], list[float]] | None = None
    least: int = 1  # items of a request
    has_places: bool = True

    @property
    def written(self) -> str:
        """The path as its contract has it."""
        return self.path.replace("/tiny/", "/{model}/").replace(
            "/versions/1/", "/versions/{version}/"
        )

    @property
    def id(self) -> str:
        return f"{self.route} {self.path} {self.name}".strip()

    @property
    def errors(self) -> list[Any]:
        """The forms of its errors."""
        return [self.error] if self.wrong is None else [self.error, self.wrong]

    @property
    def cuts(self) -> bool:
        """Whether its own server cuts what is over the limit."""
        return "rank" in self.route or self.route.startswith(("tei.", "infinity."))

    def path_of(self, place: int) -> str:
        """Return where an error says that the item of a request is."""
        has_place = self.has_places and self.takes != "one"
        return f"{self.where}[{place}]" if has_place else self.where

    def expected(self, items: Sequence[Item], rewards: Sequence[float]) -> list[float]:
        """Return the documented transform of the rewards of items."""
        if self.chosen is None:
            return [self.shown(reward) for reward in rewards]
        remaining = iter(rewards)
        groups = [[next(remaining) for _ in group] for group in self.split(items)]
        return [number for group in groups for number in self.chosen(group)]

    def split(self, items: Sequence[Item]) -> list[list[Item]]:
        """Return the items of each request."""
        if self.takes == "many":
            return [list(items)]
        if self.takes == "one":
            return [[item] for item in items]
        return [list(group) for _, group in groupby(items, lambda item: item.prompt)]

    def send(self, server: Server, items: Sequence[Item], **more: Any) -> httpx.Response:
        """Send one request."""
        body = {**self.body(items), **more}
        if self.is_packed:
            return server.http.post(self.path, content=msgspec.msgpack.encode(body))
        return server.http.post(self.path, json=body)

    def read(self, answer: httpx.Response) -> list[float]:
        """Return the numbers of an answer."""
        assert answer.status_code == 200, answer.text
        if not self.is_packed:
            return self.numbers(answer.json())
        assert answer.headers["content-type"] == PACKED["content-type"]
        return self.numbers(msgspec.msgpack.decode(answer.content))

    def scores(self, server: Server, items: Sequence[Item], **more: Any) -> list[float]:
        """Return the numbers of all items."""
        found = [self.read(self.send(server, some, **more)) for some in self.split(items)]
        return [number for numbers in found for number in numbers]


def real_items() -> list[Item]:
    """Return 50 items: 25 prompts with two responses each."""
    return [Item(**item) for item in json.loads(ITEMS_FILE.read_text())["items"]]


def form(answer: Any) -> Any:
    """Return the fields of an error, in their order."""
    fields = {key: list(one) if isinstance(one, dict) else None for key, one in answer.items()}
    if "request_id" in answer:
        fields["error"] = [key for key in answer["error"] if key != "param"]
    return fields if any(fields.values()) else list(fields)


def place(answer: Any) -> str:
    """Return all that an error says of where in the request it is."""
    said = json.dumps(answer)
    if form(answer) == DETAIL and isinstance(answer["detail"], list):
        _, *path = answer["detail"][0]["loc"]
        said += "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in path)
    return said


def by_index(score: str) -> Callable[[Any], list[float]]:
    """Return what puts a ranking's scores in the order of its request."""
    return lambda results: [one[score] for one in sorted(results, key=lambda one: one["index"])]


def texts(items: Sequence[Item]) -> list[str]:
    return [item.text for item in items]


def responses(items: Sequence[Item]) -> list[str]:
    return [item.response for item in items]


def prompts(items: Sequence[Item]) -> list[str]:
    return [item.prompt for item in items]


def pairs(items: Sequence[Item]) -> list[list[str]]:
    return [[item.prompt, item.response] for item in items]


def asked(items: Sequence[Item]) -> str:
    return items[0].prompt if items else "a"


def ranking(**more: Any) -> Callable[[Sequence[Item]], dict[str, Any]]:
    return lambda items: {"query": asked(items), "documents": responses(items), **more}


def said(text: str) -> dict[str, Any]:
    """Return a response as NeMo Gym has it."""
    return {"output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}]}


def labelled(data: Any) -> list[float]:
    return [label["score"] for (label,) in data]


def embedded(data: Any) -> list[float]:
    return [number for one in data for number in one["embedding"]]


def relevance(answer: Any) -> list[float]:
    return by_index("relevance_score")(answer["results"])


def vllm(field: str, pick: Callable[[Any], float] = float) -> Callable[[Any], list[float]]:
    return lambda answer: [pick(entry[field]) for entry in answer["data"]]


def first(numbers: list[float]) -> float:
    (number,) = numbers
    return number


def last(one: float | list[float]) -> float:
    """Return the number of an item, or the last of the numbers of a step."""
    return one[-1] if isinstance(one, list) else one


def pooled(answer: Any) -> list[float]:
    """Return the numbers that are encoded in base64."""
    data = [base64.b64decode(one["data"]) for one in answer["data"]]
    return [number for one in data for (number,) in struct.iter_unpack("=f", one)]


def rounded(number: float) -> float:
    """Return a number as 32 bits hold it."""
    (found,) = struct.unpack("f", struct.pack("f", number))
    return float(found)


def probabilities(answer: dict[str, Any]) -> list[float]:
    """Return the probabilities of a question's options, keyed by them or listed."""
    found = answer["probabilities"]
    if isinstance(found, dict):
        return list(found.values())
    return [one["probability"] for one in found]


SCORED = {
    "many": lambda items: {"batch_prompt": prompts(items), "batch_response": responses(items)},
    "pairs": lambda items: {"text_1": prompts(items), "text_2": responses(items)},
}

SCORES = [
    Case(
        "openrlhf.get_reward",
        "/get_reward",
        lambda items: {"query": texts(items), "prompts": prompts(items), "labels": [None]},
        lambda answer: answer["rewards"],
        "query",
        NATIVE,
        is_text=True,
    ),
    Case(
        "openrlhf.get_reward",
        "/get_reward",
        lambda items: {"query": texts(items)},
        lambda answer: answer["scores"],
        "query",
        NATIVE,
        sigmoid,
        is_text=True,
        name="scores",
    ),
    Case(
        "llama-factory.score",
        "/v1/score/evaluation",
        lambda items: {"model": "model", "messages": texts(items)},
        lambda answer: answer["scores"],
        "messages",
        DETAIL,
        is_text=True,
        has_model=False,
    ),
    Case(
        "slime.reward",
        "/reward",
        lambda items: {**items[0].native, "label": None},
        lambda answer: [answer],
        "response",
        NATIVE,
        takes="one",
    ),
    Case(
        "slime.reward",
        "/reward",
        lambda items: {"prompt": items[0].turns[:1], "response": items[0].response},
        lambda answer: [answer],
        "response",
        NATIVE,
        takes="one",
        name="messages",
    ),
    *(
        Case(
            "tei.predict",
            path,
            lambda items: {"inputs": pairs(items), "raw_scores": True},
            labelled,
            "inputs",
            TEI,
            empty=400,
            broken=424,
        )
        for path in ("/predict", "/", "/invocations")
    ),
    Case(
        "tei.predict",
        "/predict",
        lambda items: {"inputs": [[item.text] for item in items]},
        labelled,
        "inputs",
        TEI,
        sigmoid,
        is_text=True,
        name="texts",
        empty=400,
        broken=424,
    ),
    *(
        Case(
            "tei.rerank",
            path,
            lambda items: {"query": asked(items), "texts": responses(items)},
            by_index("score"),
            "texts",
            TEI,
            sigmoid,
            "prompt",
            empty=400,
            broken=424,
        )
        for path in ("/rerank", "/", "/invocations")
    ),
    Case(
        "tei.vertex",
        "/vertex",
        lambda items: {
            "instances": [{"inputs": pair, "raw_scores": True} for pair in pairs(items)]
        },
        lambda answer: labelled(answer["predictions"]),
        "instances",
        TEI,
        broken=424,
    ),
    Case(
        "infinity.classify",
        "/classify",
        lambda items: {"input": texts(items), "raw_scores": True},
        lambda answer: labelled(answer["data"]),
        "input",
        OPENAI,
        is_text=True,
        wrong=DETAIL,
    ),
    Case(
        "infinity.rerank",
        "/rerank",
        ranking(raw_scores=False),
        relevance,
        "documents",
        OPENAI,
        sigmoid,
        "prompt",
        wrong=DETAIL,
    ),
    Case(
        "rerank",
        "/v1/rerank",
        lambda items: {
            "query": asked(items),
            "documents": [{"text": text} for text in responses(items)],
        },
        relevance,
        "documents",
        COHERE,
        sigmoid,
        "prompt",
        name="objects",
    ),
    *(
        Case("rerank", path, ranking(), relevance, "documents", COHERE, sigmoid, "prompt")
        for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/invocations")
    ),
    Case(
        "rerank",
        "/v1/rerank",
        ranking(use_activation=False),
        relevance,
        "documents",
        COHERE,
        takes="prompt",
        name="raw",
    ),
    *(
        Case(
            "nvidia.ranking",
            path,
            lambda items: {
                "query": {"text": asked(items)},
                "passages": [{"text": text} for text in responses(items)],
                "truncate": "END",
            },
            lambda answer: by_index("logit")(answer["rankings"]),
            "passages",
            NIM,
            takes="prompt",
        )
        for path in ("/v1/ranking", "/ranking", "/reranking", "/v1/retrieval/tiny/reranking")
    ),
    *(
        Case(
            "voyage.rerank",
            path,
            ranking(top_k=None, truncation=True),
            lambda answer: by_index("relevance_score")(answer["data"]),
            "documents",
            DETAIL,
            sigmoid,
            "prompt",
        )
        for path in ("/rerank", "/v1/rerank")
    ),
    Case(
        "mixedbread.rerank",
        "/v1/reranking",
        lambda items: {"query": asked(items), "input": responses(items)},
        lambda answer: by_index("score")(answer["data"]),
        "input",
        MIXEDBREAD,
        sigmoid,
        "prompt",
    ),
    Case(
        "nvidia.chat",
        "/v1/chat/completions",
        lambda items: {"messages": items[0].turns},
        lambda answer: [one["logprob"] for one in answer["choices"][0]["logprobs"]["content"]],
        "messages",
        SWIFT,
        takes="one",
    ),
    *(
        Case(
            "kserve.infer",
            path,
            lambda items: {
                "inputs": [
                    {
                        "name": "sentences",
                        "shape": [len(items), 1],
                        "datatype": "BYTES",
                        "data": texts(items),
                    }
                ]
            },
            lambda answer: answer["outputs"][0]["data"],
            "inputs[0].data",
            TRITON,
            is_text=True,
            invalid=400,
            has_model=False,  # the path names it
        )
        for path in ("/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer")
    ),
    Case(
        "ms-swift.chat",
        "/swift/v1/chat/completions",
        lambda items: {"messages": items[0].turns},
        lambda answer: [answer["choices"][0]["message"]["content"]],
        "messages",
        SWIFT,
        takes="one",
    ),
    Case(
        "oat.feedback",
        "/get_feedback",
        SCORED["many"],
        lambda answer: answer["batch_score"],
        "batch_response",
        NATIVE,
    ),
    Case(
        "oat.feedback",
        "/get_feedback",
        lambda items: {**SCORED["many"](items), "batch_candidates": []},
        lambda answer: answer["batch_score"],
        "batch_response",
        NATIVE,
        is_packed=True,
        name="packed",
    ),
    Case(
        "nemo-gym.compare",
        "/compare",
        lambda items: {
            "conversation_history": [{"role": "user", "content": asked(items)}],
            "response_objs": [said(text) for text in responses(items)],
        },
        lambda answer: answer["rewards"],
        "response_objs",
        NATIVE,
        takes="prompt",
    ),
    *(
        Case(
            "sglang.classify",
            path,
            lambda items: {"text": texts(items)},
            embedded,
            "text",
            {"error": ["message"]},
            is_text=True,
            invalid=400,
        )
        for path in ("/classify", "/judge")
    ),
    *(
        Case(
            "sglang.classify",
            path,
            lambda items: {"conv": [item.turns for item in items]},
            embedded,
            "conv",
            {"error": ["message"]},
            name="conv",
            invalid=400,
        )
        for path in ("/classify", "/judge")
    ),
    Case(
        "sglang.v1-classify",
        "/v1/classify",
        lambda items: {"input": texts(items)},
        vllm("probs", first),
        "input",
        FLAT,
        is_text=True,
        invalid=400,
    ),
    Case(
        "sglang.embeddings",
        "/v1/embeddings",
        lambda items: {"input": texts(items)},
        lambda answer: embedded(answer["data"]),
        "input",
        FLAT,
        is_text=True,
        invalid=400,
    ),
    Case(
        "sglang.score",
        "/v1/score",
        lambda items: {"query": "", "items": texts(items), "apply_softmax": False},
        lambda answer: [first(one) for one in answer["scores"]],
        "items",
        FLAT,
        is_text=True,
        invalid=400,
    ),
    Case(
        "sglang.rerank",
        "/v1/rerank",
        ranking(instruct=None),
        by_index("score"),
        "documents",
        FLAT,
        takes="prompt",
        invalid=400,
    ),
    Case(
        "vllm.classify",
        "/classify",
        lambda items: {"input": texts(items)},
        vllm("probs", first),
        "input",
        OPENAI,
        is_text=True,
        invalid=400,
    ),
    Case(
        "vllm.classify",
        "/classify",
        lambda items: {"messages": items[0].turns, "use_activation": True},
        vllm("probs", first),
        "messages",
        OPENAI,
        sigmoid,
        "one",
        name="messages",
        invalid=400,
    ),
    Case(
        "vllm.pooling",
        "/pooling",
        lambda items: {"input": texts(items), "task": "classify"},
        vllm("data", first),
        "input",
        OPENAI,
        is_text=True,
        invalid=400,
    ),
    Case(
        "vllm.pooling",
        "/pooling",
        lambda items: {"messages": items[0].turns},
        lambda answer: [last(one) for entry in answer["data"] for one in entry["data"]],
        "messages",
        OPENAI,
        takes="one",
        name="messages",
        invalid=400,
    ),
    Case(
        "vllm.pooling",
        "/pooling",
        lambda items: {"input": texts(items), "encoding_format": "base64"},
        pooled,
        "input",
        OPENAI,
        rounded,
        is_text=True,
        name="base64",
        invalid=400,
    ),
    Case(
        "vllm.invocations",
        "/invocations",
        lambda items: {"input": texts(items)},
        vllm("probs", first),
        "input",
        OPENAI,
        is_text=True,
        invalid=400,
    ),
    *(
        Case(
            "vllm.score",
            path,
            SCORED["pairs"],
            vllm("score"),
            "text_2",
            OPENAI,
            invalid=400,
        )
        for path in ("/score", "/v1/score", "/invocations")
    ),
    Case(
        "vllm.score",
        "/score",
        lambda items: {"queries": prompts(items), "documents": responses(items)},
        vllm("score"),
        "documents",
        OPENAI,
        name="queries",
        invalid=400,
    ),
]

# The questions that are best-of-n over the responses to a prompt, and levels as the same options.
QUESTIONS = [
    *(
        Case(
            "systemone",
            "/v1/systemone",
            lambda items, own=criteria, kind=kind: {
                "state": asked(items),
                "questions": {"best": {"type": kind, "criteria": own(responses(items))}},
            },
            lambda answer: probabilities(answer["answers"]["best"]),
            "questions.best",
            DETAIL,
            takes="prompt",
            name=kind,
            empty=422,
            chosen=softmax,
            has_places=False,
        )
        for kind, criteria in (("choice", dict.fromkeys), ("score", list))
    ),
    *(
        Case(
            "decisions",
            "/v1/decisions",
            lambda items, own=own: {
                "input": asked(items),
                "questions": [{"instructions": "", **own(responses(items))}],
            },
            lambda answer: probabilities(answer["answers"][0]),
            "questions[0]",
            OPENAI,
            takes="prompt",
            name=name,
            empty=400,
            invalid=400,
            chosen=softmax,
            least=2,
            has_places=False,
        )
        for name, own in (
            (
                "choice",
                lambda said: {"type": "choice", "choices": [{"value": one} for one in said]},
            ),
            ("score", lambda said: {"type": "score", "levels": [{"label": one} for one in said]}),
        )
    ),
    *(
        Case(
            "sglang.decisions",
            "/v1/decisions",
            lambda items, own=own: {
                "input": asked(items),
                "questions": [{"id": "best", "question": "", **own(responses(items))}],
            },
            lambda answer: probabilities(answer["answers"]["best"]),
            "questions[0]",
            FLAT,
            takes="prompt",
            name=name,
            empty=400,
            invalid=400,
            chosen=softmax,
            least=2,
            has_places=False,
        )
        for name, own in (
            ("choice", lambda said: {"type": "choice", "options": [{"name": one} for one in said]}),
            ("score", lambda said: {"type": "score", "levels": said}),
        )
    ),
]
CASES = [*SCORES, *QUESTIONS]
