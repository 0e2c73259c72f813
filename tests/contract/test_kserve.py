"""Triton's inference, as the clients of NeMo-Aligner (pytriton) and trlX (tritonclient) ask."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.contract.conftest import exchanges, replay
from tests.contract.served import ITEMS, natively, post, refused, rendered

if TYPE_CHECKING:
    import httpx

    from tests.http.processes import Server

MODEL = "/v2/models/tiny"
PATH = f"{MODEL}/infer"
HEADER = "Inference-Header-Content-Length"
EOS, PAD = "<|im_end|>", "<|pad|>"


def ids_of(server: Server) -> list[list[int]]:
    """Return the ids of items."""
    return [one["input_ids"] for one in post(server, "/tokenize", inputs=ITEMS)["data"]]


def token(server: Server, text: str) -> int:
    """Return the id of a token."""
    (one,) = post(server, "/tokenize", inputs=[{"text": text}])["data"]
    (found,) = one["input_ids"]
    return int(found)


def tensor(name: str, rows: list[list[Any]], datatype: str = "INT64") -> dict[str, Any]:
    """Return an input in JSON."""
    flat = [one for row in rows for one in row]
    shape = [len(rows), len(rows[0]) if rows else 1]
    return {"name": name, "shape": shape, "datatype": datatype, "data": flat}


def padded(rows: list[list[int]], pad: int) -> list[list[int]]:
    """Return rows of one length."""
    most = max(map(len, rows)) + 3
    return [[*row, *[pad] * (most - len(row))] for row in rows]


def binary(*tensors: dict[str, Any], **more: Any) -> tuple[bytes, dict[str, str]]:
    """Return inputs as tritonclient sends them by default, and the header that goes with them."""
    head, tail = [], b""
    for one in tensors:
        if one["datatype"] == "BYTES":
            texts = [text.encode() for text in one["data"]]
            raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
        else:
            raw = np.array(one["data"], one["datatype"].lower()).tobytes()
        size = {"parameters": {"binary_data_size": len(raw)}}
        head.append({key: one[key] for key in ("name", "shape", "datatype")} | size)
        tail += raw
    written = json.dumps({"inputs": head, **more}).encode()
    return written + tail, {HEADER: str(len(written))}


def numbers(answer: httpx.Response) -> list[float]:
    """Return the rewards of a binary answer."""
    assert answer.status_code == 200, answer.text
    head = json.loads(answer.content[: int(answer.headers[HEADER])])
    (output,) = head["outputs"]
    tail = answer.content[int(answer.headers[HEADER]) :]
    assert output["parameters"]["binary_data_size"] == len(tail) == 4 * output["shape"][0]
    return [one for (one,) in struct.iter_unpack("<f", tail)]


@pytest.mark.parametrize("name", exchanges("kserve"))
def test_answers_are_like_the_golden(served: Server, name: str) -> None:
    """Fields, types and order."""
    replay(served, name)


@pytest.mark.parametrize("model", ["tiny", "crew", "helpsteer", "math"])
@pytest.mark.parametrize("is_binary", [False, True])
def test_sentences_have_the_native_scores(served: Server, model: str, *, is_binary: bool) -> None:
    """Templated texts, in JSON and binary."""
    texts = rendered(served, model=model)
    expected = natively(served, [{"text": text} for text in texts], model=model)
    sentences = tensor("sentences", [[text] for text in texts], "BYTES")
    path = f"/v2/models/{model}/infer"
    if not is_binary:
        (output,) = post(served, path, inputs=[sentences])["outputs"]
        assert (output["name"], output["shape"]) == ("rewards", [len(texts), 1])
        assert output["data"] == expected
        return

    content, header = binary(sentences, parameters={"binary_data_output": True})
    answer = served.http.post(path, content=content, headers=header)

    assert numbers(answer) == [np.float32(one) for one in expected]


def test_tokens_are_read_to_their_length(served: Server) -> None:
    """NeMo-Aligner's actor pads with any id, and sends the lengths beside."""
    rows = ids_of(served)
    lengths = tensor("sequence_lengths", [[len(row)] for row in rows])
    tokens = tensor("tokens", padded(rows, 0))

    content, header = binary(tokens, lengths, outputs=[{"name": "rewards"}])
    answer = served.http.post(PATH, content=content, headers=header).json()

    assert answer["outputs"][0]["data"] == natively(served)
    assert post(served, PATH, inputs=[tokens, lengths])["outputs"] == answer["outputs"]


@pytest.mark.parametrize("datatype", ["INT32", "INT64"])
@pytest.mark.parametrize("pad", [EOS, PAD])
def test_padding_behind_input_ids_is_not_scored(served: Server, pad: str, datatype: str) -> None:
    """trlX pads with EOS and sends no lengths; the first one behind the text is read."""
    rows = [[*row, token(served, EOS)] for row in [one[:-1] for one in ids_of(served)]]
    sent = tensor("input_ids", padded(rows, token(served, pad)), datatype)
    expected = natively(served, [{"input_ids": row} for row in rows])

    content, header = binary(sent, parameters={"binary_data_output": True})
    answer = served.http.post(PATH, content=content, headers=header)

    assert numbers(answer) == [np.float32(one) for one in expected]


def test_what_a_mask_leaves_out_is_not_scored(served: Server) -> None:
    """Before the ids or behind them."""
    rows = ids_of(served)
    most = max(map(len, rows))
    left = [[5] * (most - len(row)) + row for row in rows]
    mask = [[0] * (most - len(row)) + [1] * len(row) for row in rows]

    answer = post(served, PATH, inputs=[tensor("input_ids", left), tensor("attention_mask", mask)])

    assert answer["outputs"][0]["data"] == natively(served)


def test_a_large_binary_body_is_not_taken_for_json(served: Server) -> None:
    """Beyond what is parsed as it comes."""
    rows = ids_of(served)[:1] * 600
    width = max(map(len, rows)) + 40
    tokens = tensor("tokens", [[*row, *[0] * (width - len(row))] for row in rows])
    lengths = tensor("sequence_lengths", [[len(row)] for row in rows])

    content, header = binary(tokens, lengths)
    answer = served.http.post(PATH, content=content, headers=header)

    assert len(content) > 262_144
    assert answer.json()["outputs"][0]["data"] == natively(served)[:1] * 600


def test_what_clients_ask_first_is_answered(served: Server) -> None:
    """pytriton waits for the server and the model, and reads the configuration."""
    for path in ("/v2/health/live", "/v2/health/ready", f"{MODEL}/ready"):
        assert served.http.get(path).status_code == 200, path
    assert served.http.get(f"{MODEL}/versions/1/ready").status_code == 200
    config = served.http.get(f"{MODEL}/config").json()
    metadata = served.http.get(MODEL).json()
    unknown = served.http.get("/v2/models/nope/ready")

    assert config["max_batch_size"] > 0
    assert [one["name"] for one in config["input"]] == [one["name"] for one in metadata["inputs"]]
    assert config["output"] == [{"name": "rewards", "data_type": "TYPE_FP32", "dims": [1]}]
    assert (metadata["name"], metadata["versions"]) == ("tiny", ["1"])
    assert (unknown.status_code, list(unknown.json())) == (404, ["error"])


ONE = {"name": "sentences", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}
IDS = {"name": "tokens", "shape": [1, 2], "datatype": "INT64", "data": [5, 6]}
LENGTH = {"name": "sequence_lengths", "shape": [1, 1], "datatype": "INT64", "data": [2]}


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([], "send 'sentences'"),
        ([IDS], "sequence_lengths"),
        ([IDS, {**LENGTH, "data": [3]}], "from 1 to 2"),
        ([IDS, {**LENGTH, "data": [0]}], "from 1 to 2"),
        ([IDS, {**LENGTH, "shape": [2, 1], "data": [1, 2]}], "2 rows for 1"),
        ([{**ONE, "shape": [2, 1]}], "1 elements"),
        ([{**ONE, "shape": [-1, 1]}], "shape"),
        ([{**ONE, "shape": [1, 2], "data": ["a", "b"]}], "[n, 1]"),
        ([{**ONE, "data": [7]}], "strings"),
        ([{**ONE, "shape": [20_000_000, 0], "data": []}], "at least one element"),
        ([{**IDS, "name": "input_ids", "shape": [10**15, 0], "data": []}], "at least one element"),
        ([{**IDS, "name": "input_ids", "shape": [2**62] * 3_000}], "[items, elements]"),
        ([{**ONE, "datatype": "FP32"}], "BYTES"),
        ([{**IDS, "name": "input_ids", "data": [5, 2**40]}], "token ids"),
        ([{**IDS, "name": "input_ids", "data": [5, 1.5]}], "whole numbers"),
        ([{**IDS, "name": "token_type_ids"}], "no such input"),
    ],
)
def test_a_tensor_that_cannot_be_read_is_refused(
    served: Server, inputs: list[dict[str, Any]], says: str
) -> None:
    """400 and one sentence, as Triton's."""
    answer = served.http.post(PATH, json={"inputs": inputs})

    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    assert says in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "99999", "10"])
def test_a_head_of_another_length_is_refused(served: Server, length: str) -> None:
    """Never read from another place."""
    content, _ = binary(tensor("sentences", [["a"]], "BYTES"))

    answer = served.http.post(PATH, content=content, headers={HEADER: length})

    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]


def test_another_output_is_refused(served: Server) -> None:
    """There is one."""
    answer = served.http.post(PATH, json={"inputs": [ONE], "outputs": [{"name": "values"}]})

    assert (answer.status_code, "'rewards'" in answer.text) == (400, True)


def test_overload_is_503_with_retry_after(served: Server) -> None:
    """In Triton's form."""
    answer = refused(served, PATH, inputs=[ONE])

    assert (answer.status_code, list(answer.json())) == (503, ["error"])
    assert int(answer.headers["retry-after"]) >= 1
