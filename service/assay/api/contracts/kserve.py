"""Triton's inference over HTTP (KServe v2), as the clients of NeMo-Aligner and trlX speak it.

Inputs are NeMo-Aligner's, `sentences` (templated texts) or `tokens` with `sequence_lengths`, or
trlX's `input_ids`, padded, with an `attention_mask` or without; the output `rewards` is (n, 1) and
raw. Tensors are JSON or binary, in and out. What clients ask before (is it ready, which inputs has
it) is answered, too. There is one version of a model, "1"; a path may name it.
"""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.exceptions import HTTPException

from assay import __version__
from assay.api import problems
from assay.api.contracts import tensors
from assay.api.contracts.codec import JSON
from assay.api.contracts.contract import Ask, Body, Contract, each, in_range
from assay.api.contracts.shapes import message_with_field, named
from assay.api.request_context import context_of
from assay.errors import AssayError, InvalidField
from assay.items import Ids, Text
from assay.scoring.driver import sized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from assay.items import Source
    from assay.prompts.models import Padding
    from assay.scoring.call import ScoredItem
    from assay.scoring.driver import Handler

_MOST_ITEMS = 65_536
_OUTPUT = "rewards"
_INPUTS = {
    "sentences": "BYTES",
    "tokens": "INT64",
    "sequence_lengths": "INT64",
    "input_ids": "INT64",
    "attention_mask": "INT64",
}

router = APIRouter(include_in_schema=False)


class Tensor(Body):
    """One input; `data` is flat or nested, or was binary."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = None


class Output(Body):
    """What is asked for of an output."""

    name: str
    parameters: dict[str, Any] = Field(default={})


class Infer(Body):
    """`inputs` are of the same items, which the first dimension counts."""

    inputs: list[Tensor]
    outputs: list[Output] | None = None
    parameters: dict[str, Any] = Field(default={})
    id: str | None = None

    @property
    def is_binary(self) -> bool:
        """Whether the answer's tensor is to be binary."""
        if self.outputs:
            return bool(self.outputs[0].parameters.get("binary_data"))
        return bool(self.parameters.get("binary_data_output"))


def _infer(ask: Ask, body: Infer) -> Handler[dict[str, Any] | bytes]:
    for place, output in enumerate(body.outputs or ()):
        if output.name != _OUTPUT:
            raise InvalidField(f"the only output is '{_OUTPUT}'", param=f"outputs[{place}].name")
    name = ask.path["model"]
    padding = ask.target(name).members[0].facts.padding
    # Of two dimensions alone: the product of a shape of thousands takes seconds.
    yield from sized(max((prod(tensor.shape[:2]) for tensor in body.inputs), default=0))
    field, sources = _sources(body.inputs, padding)
    _, _, judged = yield from ask.read(sources, each(field), model=name)
    return _answer(ask, body, judged)


def _answer(ask: Ask, body: Infer, judged: Sequence[ScoredItem]) -> dict[str, Any] | bytes:
    rewards = [item.reward for item in judged]
    output: dict[str, Any] = {"name": _OUTPUT, "datatype": "FP32", "shape": [len(rewards), 1]}
    head = {
        "model_name": ask.path["model"],
        "model_version": "1",
        **({"id": body.id} if body.id is not None else {}),
        "outputs": [output],
    }
    if not body.is_binary:
        output["data"] = rewards
        return head
    tail = np.asarray(rewards, "<f4").tobytes()
    output["parameters"] = {"binary_data_size": len(tail)}
    written = JSON.write(head)
    ask.headers[tensors.HEADER] = str(len(written))
    ask.headers["content-type"] = tensors.MEDIA_TYPE
    return written + tail


def _sources(inputs: Sequence[Tensor], padding: Padding) -> tuple[str, list[Source]]:
    """Return the items, and the path of the tensor that has them.

    Raises:
        InvalidField: A tensor is unknown or not of the stated shape, or none has items.
    """
    places = {tensor.name: f"inputs[{place}].data" for place, tensor in enumerate(inputs)}
    rows_by_name = {tensor.name: _read(tensor, places[tensor.name]) for tensor in inputs}
    if texts := rows_by_name.get("sentences"):
        _check_width(texts, places["sentences"])
        return places["sentences"], [Text(row[0]) for row in texts]
    if "sentences" in rows_by_name:
        return places["sentences"], []
    if "tokens" in rows_by_name and "sequence_lengths" in rows_by_name:
        lengths = rows_by_name["sequence_lengths"]
        _check_count(lengths, rows_by_name["tokens"], places["sequence_lengths"])
        _check_width(lengths, places["sequence_lengths"])
        pairs = zip(rows_by_name["tokens"], lengths, strict=True)
        return places["tokens"], _ids(
            [_first(ids, row[0], places) for ids, row in pairs], places["tokens"]
        )
    if "input_ids" in rows_by_name and "attention_mask" in rows_by_name:
        masks = rows_by_name["attention_mask"]
        _check_count(masks, rows_by_name["input_ids"], places["attention_mask"])
        pairs = zip(rows_by_name["input_ids"], masks, strict=True)
        rows = [_unmasked(*pair, places) for pair in pairs]
        return places["input_ids"], _ids(rows, places["input_ids"])
    if "input_ids" in rows_by_name:
        rows = [padding.taken_off_ids(row) for row in rows_by_name["input_ids"]]
        return places["input_ids"], _ids(rows, places["input_ids"])
    raise InvalidField(
        "send 'sentences', 'tokens' with 'sequence_lengths', or 'input_ids'", param="inputs"
    )


def _ids(rows: list[list[int]], path: str) -> list[Source]:
    return [Ids(in_range(row, f"{path}[{place}]")) for place, row in enumerate(rows)]


def _read(tensor: Tensor, path: str) -> list[list[Any]]:
    """Return a tensor's rows.

    Raises:
        InvalidField: It is unknown, or not what it says.
    """
    kind = _INPUTS.get(tensor.name)
    if kind is None:
        names = ", ".join(_INPUTS)
        raise InvalidField(f"no such input; there are {names}", param=path.removesuffix(".data"))
    is_text = kind == "BYTES"
    if is_text != (tensor.datatype == "BYTES") or (
        not is_text and tensor.datatype not in tensors.INTEGERS
    ):
        expected = "BYTES" if is_text else "whole numbers"
        raise InvalidField(f"'{tensor.name}' has {expected}", param=path)
    try:
        return tensors.rows(tensor.data, tensor.shape, tensor.datatype)
    except ValueError as error:
        raise InvalidField(f"'{tensor.name}': {error}", param=path) from None


def _check_width(rows: list[list[Any]], path: str) -> None:
    if any(len(row) != 1 for row in rows):
        raise InvalidField("one element for each item: the shape is [n, 1]", param=path)


def _check_count(rows: list[list[Any]], others: list[list[Any]], path: str) -> None:
    if len(rows) != len(others):
        raise InvalidField(f"{len(rows)} rows for {len(others)} items", param=path)


def _first(ids: list[int], size: int, places: Mapping[str, str]) -> list[int]:
    """Return as many ids as an item has before its padding."""
    if not 0 < size <= len(ids):
        raise InvalidField(
            f"a length is from 1 to {len(ids)}, the width of 'tokens'",
            param=places["sequence_lengths"],
        )
    return ids[:size]


def _unmasked(ids: list[int], mask: list[int], places: Mapping[str, str]) -> list[int]:
    if len(ids) != len(mask):
        raise InvalidField("it has another width than 'input_ids'", param=places["attention_mask"])
    return [token_id for token_id, is_read in zip(ids, mask, strict=True) if is_read]


@router.get("/v2")
async def server() -> dict[str, Any]:
    """Say what this server is."""
    return {"name": "assay", "version": __version__, "extensions": ["binary_tensor_data"]}


@router.head("/v2/health/live")
@router.get("/v2/health/live")
async def live() -> Response:
    """Answer as long as the event loop does."""
    return Response()


@router.head("/v2/health/ready")
@router.get("/v2/health/ready")
async def ready(request: Request) -> Response:
    """Answer 200 once every model can be asked."""
    return Response(status_code=503 if context_of(request).scorer.served.reasons() else 200)


@router.get("/v2/models/{name:path}/ready")
async def model_ready(request: Request, name: str) -> Response:
    """Answer 200 once a model can be asked."""
    scorer = context_of(request).scorer
    try:
        is_ready = scorer.served.state(scorer.target(_unversioned(name))) == "ready"
    except AssayError as error:
        return _refused(error, request)
    return Response(status_code=200 if is_ready else 503)


@router.get("/v2/models/{name:path}/config")
async def config(request: Request, name: str) -> Any:
    """Say what a model takes, as Triton's configuration does."""
    try:
        name = _unversioned(name)
        context_of(request).scorer.target(name)
    except AssayError as error:
        return _refused(error, request)
    kinds = {"BYTES": "TYPE_STRING", "INT64": "TYPE_INT64"}
    return {
        "name": name,
        "platform": "",
        "backend": "assay",
        "max_batch_size": _MOST_ITEMS,
        "input": [
            {"name": input_name, "data_type": kinds[kind], "dims": [-1], "optional": True}
            for input_name, kind in _INPUTS.items()
        ],
        "output": [{"name": _OUTPUT, "data_type": "TYPE_FP32", "dims": [1]}],
    }


@router.get("/v2/models/{name:path}")
async def metadata(request: Request, name: str) -> Any:
    """Say what a model takes and answers."""
    if name.endswith("/infer"):
        raise HTTPException(405, headers={"Allow": "POST"})
    try:
        name = _unversioned(name)
        context_of(request).scorer.target(name)
    except AssayError as error:
        return _refused(error, request)
    return {
        "name": name,
        "versions": ["1"],
        "platform": "assay",
        "inputs": [
            {"name": input_name, "datatype": kind, "shape": [-1, -1]}
            for input_name, kind in _INPUTS.items()
        ],
        "outputs": [{"name": _OUTPUT, "datatype": "FP32", "shape": [-1, 1]}],
    }


def _unversioned(name: str) -> str:
    """Return a name without the version behind it."""
    return re.sub(r"/versions/[^/]+$", "", name)


def _refused(error: AssayError, request: Request) -> Response:
    status, body = _problem(error, context_of(request).request_id)
    return JSONResponse(body, status_code=status, headers=problems.headers(error))


def _problem(error: AssayError, _: str) -> tuple[int, dict[str, Any]]:
    return named(error)[0], {"error": message_with_field(error)}


CONTRACTS = (
    Contract(
        "kserve.infer",
        ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"),
        Infer,
        _infer,
        _problem,
        forms=(JSON, tensors.BINARY),
    ),
)
