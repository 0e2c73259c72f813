"""Models that another server computes, with real servers on both sides."""

from __future__ import annotations

import contextlib
import shutil
import socket
from typing import TYPE_CHECKING

import pytest

from tests.http.conftest import MEAN, STD
from tests.http.processes import serving, until
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.http.processes import Server

ITEMS = [PAIR, {"prompt": "Hi", "response": "Hello there!"}, {"prompt": "1 + 1?", "response": "3"}]
KEY = "a-key-of-the-other-server"


@pytest.fixture(scope="module")
def upstream(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that has the weights."""
    folder = tmp_path_factory.mktemp("upstream")
    with serving(folder / "run", tiny, key=KEY, api_key=KEY, compile="off") as server:
        yield server


def bare(tiny: Path, folder: Path) -> Path:
    """Copy a checkpoint without its weights."""
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.mark.parametrize("contract", ["vllm-classify", "vllm-pooling", "sglang", "tei", "assay"])
def test_scores_are_those_of_the_server_that_has_the_weights(
    upstream: Server, tiny: Path, tmp_path: Path, contract: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every contract, to the bit; what is answered around them is Assay's."""
    monkeypatch.setenv("UPSTREAM_KEY", KEY)
    folder = bare(tiny, tmp_path / "judge")
    config = tmp_path / "assay.toml"
    config.write_text(
        f'[remotes.judge]\nurl = "{upstream.url}"\ncontract = "{contract}"\n'
        'key_variable = "UPSTREAM_KEY"\n'
    )
    expected = upstream.score(inputs=ITEMS).json()
    with serving(tmp_path / "run", folder, config=config) as server:
        found = server.score(inputs=ITEMS).json()
        best = server.http.post(
            "/best-of-n", json={"prompt": "Hi", "responses": ["a", "Hello there!", "b"]}
        ).json()
        entry = server.http.get("/models").json()["data"][0]

    assert [one["score"] for one in found["data"]] == [one["score"] for one in expected["data"]]
    assert found["usage"]["tokens"] == expected["usage"]["tokens"]
    assert best["data"][0]["best"]["index"] == 1
    assert entry["id"] == "judge"
    assert entry["state"] == "ready"
    assert entry["forward"] == contract


def test_a_remote_member_of_an_ensemble_that_dies_is_named_and_taken_back(
    tiny: Path, tmp_path: Path
) -> None:
    """One member here, one elsewhere, by an operator's names, scale and rule; without it 503."""
    folder = bare(tiny, tmp_path / "judge")
    config = tmp_path / "assay.toml"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config.write_text(
        '[ensembles]\nboth = ["tiny", "judge"]\n'
        '[ensembles.careful]\nmembers = { here = "tiny", there = "judge" }\n'
        'standardize = true\nrule = "lower_bound"\n[remotes.judge]\n'
        f'url = "http://127.0.0.1:{port}"\ncontract = "vllm-classify"\n'
    )
    options = {"config": config, "compile": "off", "hold_while_loading_s": 0}

    def is_ready() -> bool:
        return here.http.get("/health/ready").is_success

    with contextlib.ExitStack() as stack:
        with serving(tmp_path / "there", tiny, compile="off", port=port) as there:
            own = there.score(inputs=[PAIR]).json()["data"][0]["score"]
            here = stack.enter_context(serving(tmp_path / "here", tiny, folder, **options))
            both = here.score(inputs=[PAIR], model="both").json()["data"][0]
            careful = here.score(inputs=[PAIR], model="careful", include=["members"]).json()
            answers = {"prompt": "Hi", "responses": ["a", "Hello there!"], "model": "careful"}
            lower = here.http.post("/best-of-n", json=answers).json()["data"][0]
            compared = here.http.post("/compare", json=answers).json()["data"][0]
        until("its death is noticed", lambda: not is_ready())
        reasons = here.http.get("/health/ready").text
        refused = here.score(inputs=[PAIR], model="both")
        alone = here.score(inputs=[PAIR], model="tiny")
        with serving(tmp_path / "again", tiny, compile="off", port=port):
            until("it is back", is_ready)
            again = here.score(inputs=[PAIR], model="both").json()["data"][0]

    assert both["score"] == own
    assert both["uncertainty"]["std"] == 0
    (standard,) = careful["data"]
    assert standard["score"] == (own - MEAN) / STD
    assert standard["members"] == dict.fromkeys(("here", "there"), (own - MEAN) / STD)
    assert [one["selection_score"] for one in lower["ranking"]] == sorted(compared["scores"])[::-1]
    assert compared["agreement"] == 1.0
    assert "judge" in reasons
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert alone.status_code == 200
    assert again["score"] == own
