"""An answer in pieces is one answer."""

from __future__ import annotations

import httpx
from fastapi import FastAPI

from assay.api.pieces import Pieces


async def test_an_answer_in_pieces_has_a_length_its_headers_and_everything_in_order() -> None:
    """As if it had been joined."""
    app = FastAPI()

    @app.get("/")
    async def answer() -> Pieces:
        return Pieces([b'{"data":[', b"1", b"", b",2", b"]}"], {"X-Revision": "a"})

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answered = await client.get("/")

    assert answered.json() == {"data": [1, 2]}
    assert answered.headers["content-length"] == "14"
    assert answered.headers["content-type"] == "application/json"
    assert answered.headers["x-revision"] == "a"
