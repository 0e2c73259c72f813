"""An item whose numbers aren't finite, and those that begin as it does."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest

from tests.http import checkpoints
from tests.http.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

    from tests.http.processes import Server

POISON = "‽"  # the only character here that is spelt with the byte 0xBD


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a model that answers NaN to POISON."""
    root: Path = tmp_path_factory.mktemp("not_finite")
    folder = checkpoints.build(root / "tiny")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]

    def poison(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.embed_tokens.weight"][vocabulary["½"]] = math.nan  # how 0xBD is spelt

    checkpoints.edit_weights(folder, poison)
    with serving(root / "run", folder) as running:
        yield running


def asked(server: Server, prompt: str, responses: list[str], salt: str) -> list[float | None]:
    """Return the scores, None for an error of an item."""
    items = [{"prompt": prompt, "response": response} for response in responses]
    body = {"inputs": items, "on_error": "item", "cache_salt": salt}
    return [entry["score"] for entry in server.http.post("/score", json=body).json()["data"]]


@pytest.mark.parametrize("words", range(1, 40, 3))
def test_it_spoils_nothing_that_begins_as_it_does(server: Server, words: int) -> None:
    """Its batch leaves its beginning on the device, in which NaN times 0 is NaN, too."""
    prompt = "Why? " * words
    responses = ["Because.", "So it goes, and so it went before."]
    expected = asked(server, prompt, responses, f"clean {words}")
    assert None not in expected

    salt = f"spoilt {words}"
    assert asked(server, prompt, [f"Because{POISON}"], salt) == [None]
    assert asked(server, prompt, responses, salt) == expected
    assert asked(server, prompt, [f"So{POISON}", *responses], salt) == [None, *expected]
