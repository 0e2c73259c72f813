"""What a model's tokenizer and config.json decide about the tokens that it reads, over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.fidelity import checkpoints as random_checkpoints
from tests.http import checkpoints
from tests.http.processes import run, serving
from tests.http.texts import PAIR
from tests.prompts import tokenizers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.http.processes import Server

EXTRA = "<|extra|>"
ROWS = 6144  # of the tiny checkpoint's embedding, as many as its tokenizer has tokens


def with_a_token_too_many(folder: Path) -> Path:
    """Write a checkpoint whose tokenizer was given a token, and its embedding no row."""
    checkpoints.build(folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": ROWS, "content": EXTRA})
    path.write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture(scope="module")
def beyond(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that checkpoint."""
    return with_a_token_too_many(tmp_path_factory.mktemp("checkpoints") / "beyond")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cross-encoder of BERT's kind, as the most downloaded rerankers are."""
    folder = tmp_path_factory.mktemp("checkpoints") / "bert"
    random_checkpoints.make(folder, "bert", vocabulary=261, max_position_embeddings=128)
    settings = json.loads((folder / "config.json").read_text())
    return tokenizers.make(folder, is_encoder=True, has_segments=True, chat=None, config=settings)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a decoder whose tokenizer adds BOS and EOS, which is padding, too."""
    folder = tmp_path_factory.mktemp("checkpoints") / "ended"
    random_checkpoints.make(folder, "llama", vocabulary=261, pad_token_id=2)
    settings = json.loads((folder / "config.json").read_text())
    return tokenizers.make(folder, adds_bos=True, adds_eos=True, config=settings)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, beyond: Path, bert: Path, ended: Path
) -> Iterator[Server]:
    """A server of checkpoints whose files decide something odd."""
    with serving(tmp_path_factory.mktemp("tokens") / "run", beyond, bert, ended) as server:
        yield server


@pytest.mark.parametrize(
    ("route", "body", "status"),
    [
        ("/score", {"inputs": [PAIR, {**PAIR, "response": EXTRA}]}, 422),
        ("/score", {"inputs": {"text": EXTRA}}, 422),
        ("/best-of-n", {"prompt": EXTRA, "responses": ["a", "b"]}, 422),
        ("/compare", {"prompt": "a", "chosen": EXTRA, "rejected": "b"}, 422),
        ("/classify", {"input": ["a", EXTRA]}, 400),
        ("/pooling", {"input": EXTRA}, 400),
        ("/v1/embeddings", {"input": EXTRA}, 400),
        ("/predict", {"inputs": EXTRA}, 422),
        ("/rerank", {"query": EXTRA, "documents": ["a"]}, 422),
        ("/get_reward", {"query": [EXTRA]}, 422),
        ("/pooling", {"input": [[5, ROWS]]}, 400),
    ],
)
def test_text_that_names_a_token_beyond_the_embedding_is_the_caller_s_error(
    server: Server, route: str, body: dict[str, Any], status: int
) -> None:
    """Never a 500, whatever the route: on a GPU the id would end the device's process."""
    answer = server.http.post(route, json=body)

    assert answer.status_code == status
    assert "the model's vocabulary ends at 6143" in answer.text


def test_an_item_that_names_such_a_token_fails_alone(server: Server) -> None:
    """With `on_error: item` the others have their scores."""
    answer = server.score(inputs=[PAIR, {"text": EXTRA}, PAIR], on_error="item").json()["data"]

    assert [one.get("error", {}).get("code") for one in answer] == [None, "invalid_field", None]
    assert answer[0]["score"] == answer[2]["score"]


def test_the_start_and_inspect_tell_of_tokens_beyond_the_embedding(
    server: Server, beyond: Path, tmp_path: Path
) -> None:
    """By name, with the embedding's size: the tokenizer may be another model's."""
    told = f"'{EXTRA}' beyond the {ROWS} rows of the model's embedding"

    assert told in server.log.read_text()
    assert told in run("inspect", beyond, cwd=tmp_path).stdout


QUERY = "how many people live in Berlin?"
DOCUMENTS = ["3.5 million", "Berlin is a city", "", "New York"]


def offline(folder: Path, pairs: list[tuple[str, str]]) -> list[float]:
    """Return transformers' own scores of pairs of texts: eager, one by one."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        encoded = [tokenizer([pair], return_tensors="pt") for pair in pairs]
        return [float(model(**one).logits[0, 0]) for one in encoded]


@pytest.mark.parametrize(
    ("route", "body", "score"),
    [
        ("/score", {"inputs": [{"prompt": QUERY, "response": one} for one in DOCUMENTS]}, "score"),
        ("/rerank", {"query": QUERY, "documents": DOCUMENTS, "use_activation": False}, ""),
        ("/rerank", {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True}, "score"),
        ("/rerank", {"query": QUERY, "documents": DOCUMENTS, "raw_scores": True}, ""),
        ("/predict", {"inputs": [[QUERY, one] for one in DOCUMENTS], "raw_scores": True}, "score"),
        ("/v1/score", {"queries": QUERY, "documents": DOCUMENTS, "use_activation": False}, "score"),
        ("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "use_activation": False}, ""),
    ],
)
def test_a_cross_encoder_of_bert_s_kind_scores_pairs_as_transformers_does(
    server: Server, bert: Path, route: str, body: dict[str, Any], score: str
) -> None:
    """With the segment ids that its tokenizer gives, on every route that has pairs."""
    answer = server.http.post(route, json={"model": "bert", **body}).json()

    found = answer if isinstance(answer, list) else answer.get("data") or answer["results"]
    if route == "/predict":
        found = [labels[0] | {"index": place} for place, labels in enumerate(found)]
    scores = {one["index"]: one[score or "relevance_score"] for one in found}
    expected = offline(bert, [(QUERY, one) for one in DOCUMENTS])
    assert [scores[place] for place in range(4)] == pytest.approx(expected, abs=1e-5)


def test_segment_ids_that_are_sent_with_input_ids_are_read(server: Server, bert: Path) -> None:
    """As `/tokenize` shows them; equal ids with other segments are another item."""
    pair = {"prompt": QUERY, "response": DOCUMENTS[0]}
    shown = server.http.post("/tokenize", json={"model": "bert", "inputs": pair}).json()["data"][0]
    ids = {"input_ids": shown["input_ids"]}
    told = {**ids, "token_type_ids": shown["token_type_ids"]}

    entries = server.score(model="bert", inputs=[pair, ids, told, ids, pair]).json()["data"]

    scores = [one["score"] for one in entries]
    assert scores[0] == scores[2] == scores[4]
    assert scores[1] == scores[3]
    assert abs(scores[0] - scores[1]) > 1e-3
    assert scores[0] == pytest.approx(offline(bert, [(QUERY, DOCUMENTS[0])])[0], abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "says", "param"),
    [
        ({"input_ids": [5, 6], "token_type_ids": [0, 2]}, "end at 1", "inputs[0].token_type_ids"),
        ({"input_ids": [5, 6], "token_type_ids": [0]}, "one for each id", "inputs[0]"),
        ({"text": "a", "token_type_ids": [0]}, "goes with 'input_ids'", "inputs[0]"),
        ({"input_ids": [5], "token_type_ids": [-1]}, "greater", "inputs[0].token_type_ids[0]"),
    ],
)
def test_segment_ids_are_checked(
    server: Server, fields: dict[str, Any], says: str, param: str
) -> None:
    """As many as ids, and none that the model hasn't."""
    answer = server.score(model="bert", inputs=[fields])

    assert answer.status_code == 422
    assert says in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == param


BOS, EOS = 1, 2


@pytest.mark.parametrize("text", ["ab", "<s>ab", "ab</s>", "<s>ab</s>"])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "<s>ab</s>"),
        ({"add_special_tokens": True}, "<s>ab</s>"),
        ({"add_special_tokens": False}, ""),
    ],
)
def test_vllm_s_tokenize_shows_what_its_routes_read(
    server: Server, fields: dict[str, Any], expected: str, text: str
) -> None:
    """BOS and EOS once where the tokenizer adds them, unless the caller wants nothing added."""
    body = {"model": "ended", "prompt": text, "return_token_strs": True, **fields}

    tokens = server.http.post("/tokenize", json=body).json()["token_strs"]

    assert "".join(tokens) == (expected or text)


@pytest.mark.parametrize(
    ("route", "body", "place"),
    [
        ("/classify", {"input": "ab"}, ("data", 0, "probs", 0)),
        ("/pooling", {"input": ["ab"]}, ("data", 0, "data", 0)),
        ("/classify", {"text": "ab"}, ("embedding", 0)),
        ("/v1/classify", {"input": "ab"}, ("data", 0, "probs", 0)),
        ("/v1/embeddings", {"input": "ab"}, ("data", 0, "embedding", 0)),
        ("/v1/score", {"query": "a", "items": ["b"]}, ("scores", 0, 0)),
        ("/predict", {"inputs": "ab", "raw_scores": True}, (0, "score")),
        ("/predict", {"inputs": [["ab"]], "raw_scores": True}, (0, 0, "score")),
        ("/classify", {"input": ["ab"], "raw_scores": True}, ("data", 0, 0, "score")),
    ],
)
def test_servers_that_tokenize_with_special_tokens_are_met_by_their_ids(
    server: Server, ended: Path, route: str, body: dict[str, Any], place: tuple[Any, ...]
) -> None:
    """Text between BOS and EOS; read, as transformers does, before an EOS that is padding."""
    answer = server.http.post(route, json={"model": "ended", **body}).json()

    for step in place:
        answer = answer[step]
    assert answer == pytest.approx(of_ids(ended, "<s>ab</s>"), abs=1e-5)


def of_ids(folder: Path, text: str) -> float:
    """Return transformers' own score of a text, tokenized as it is."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        encoded = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        return float(model(**encoded).logits[0, 0])


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"text": "ab"}, "<s>ab"),
        ({"text": "ab</s>"}, "<s>ab"),
        ({"input_ids": [EOS, EOS, 5, 6, EOS, EOS]}, '</s></s>!"'),
        ({"input_ids": [EOS]}, "</s>"),
    ],
)
def test_padding_at_the_end_is_not_what_is_read(
    server: Server, ended: Path, item: dict[str, Any], text: str
) -> None:
    """Natively text gets no EOS; wherever padding ends an item, the token before it is read."""
    entry = server.score(model="ended", inputs=[item]).json()["data"][0]
    shown = server.http.post("/tokenize", json={"model": "ended", "inputs": item}).json()["data"][0]

    assert entry["score"] == pytest.approx(of_ids(ended, text), abs=1e-5)
    assert shown["input_ids"][: shown["read_position"] + 1] == entry_ids(ended, text)


def entry_ids(folder: Path, text: str) -> list[int]:
    """Return the ids of a text as it is."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def test_the_start_tells_where_a_template_that_ends_in_padding_is_read(server: Server) -> None:
    """With both tokens: those that read the last one have another rule."""
    log = server.log.read_text()

    assert "a conversation ends with '</s>'" in log
    assert "reads the last token that isn't padding, 'o'" in log
