"""Token ids, read at every token, of process reward models whose steps can't be told from ids.

A replay of Skywork-o1-PRM's client: it sends ids to `/v1/embeddings`, and takes the sigmoid where
it knows that a step ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from assay.reward.transform import sigmoid
from tests.contract.served import natively
from tests.families.layout import hidden, read
from tests.families.process import HENS, LAID, LAYOUTS, SUM
from tests.http import checkpoints
from tests.http.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.http.processes import Server

CLOSE = 1e-5  # float32 sums in another order
CHAINS = [
    {"prompt": HENS, "steps": LAID},
    {"prompt": HENS, "steps": LAID[:2]},
    {"prompt": SUM, "steps": ["17 + 25 = 32.", "The answer is 32."]},
]
OWN = {"sky": "skywork-o1-prm", "trl": "trl-prm"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny checkpoints of the families whose steps are tokenized each alone."""
    root = tmp_path_factory.mktemp("separate")
    layouts = {one.name: one for one in LAYOUTS}
    return {
        name: checkpoints.build_family(root / name, layouts[own]).folder
        for name, own in OWN.items()
    }


@pytest.fixture(scope="module")
def separate(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of these."""
    root = tmp_path_factory.mktemp("every-token")
    with serving(root / "run", *folders.values()) as server:
        yield server


def seen(server: Server, model: str) -> list[dict[str, Any]]:
    """Return what the model reads of each chain."""
    body = {"inputs": CHAINS, "model": model}
    found: list[dict[str, Any]] = server.http.post("/tokenize", json=body).json()["data"]
    return found


def sent(server: Server, path: str, **body: Any) -> list[dict[str, Any]]:
    """Return the entries of an answer."""
    answer = server.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def eager(folder: Path, model: str, ids: list[int]) -> list[list[float]]:
    """Return the head's numbers at every token by transformers, the last one good."""
    weights, _ = read(folder)
    name = {"sky": "v_head.summary", "trl": "score"}[model]
    numbers = hidden(folder, ids) @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    rows: list[list[float]] = numbers.tolist()
    return rows


@pytest.mark.parametrize("model", OWN)
def test_every_token_has_the_heads_numbers(
    separate: Server, folders: dict[str, Path], model: str
) -> None:
    """Those of transformers' own forward, on both routes, for one sequence and for many."""
    many = [one["input_ids"] for one in seen(separate, model)]

    pooled = sent(separate, "/pooling", model=model, input=many)
    embedded = sent(separate, "/v1/embeddings", model=model, input=many)
    alone = sent(separate, "/v1/embeddings", model=model, input=many[0])

    for ids, rows, numbers in zip(many, pooled, embedded, strict=True):
        expected = eager(folders[model], model, ids)
        assert len(rows["data"]) == len(ids)
        for row, reference in zip(rows["data"], expected, strict=True):
            assert row == pytest.approx(reference, abs=CLOSE)
        assert numbers["embedding"] == [row[-1] for row in rows["data"]]
    assert alone[0]["embedding"] == embedded[0]["embedding"]


def test_the_client_finds_the_native_scores_of_its_steps(separate: Server) -> None:
    """The sigmoid of the number where a step ends, to the last bit."""
    native = separate.score(inputs=CHAINS, model="sky").json()["data"]
    views = seen(separate, "sky")

    data = sent(separate, "/v1/embeddings", model="sky", input=[one["input_ids"] for one in views])

    assert [len(entry["steps"]) for entry in native] == [len(one["steps"]) for one in CHAINS]
    for entry, view, found in zip(native, views, data, strict=True):
        picked = [found["embedding"][place] for place in view["read_positions"]]
        assert [sigmoid(one) for one in picked] == entry["steps"]


def test_activation_is_of_every_token(separate: Server) -> None:
    """Raw without it, and where it is refused."""
    ids = seen(separate, "sky")[0]["input_ids"]

    def pooled(**asked: Any) -> list[list[float]]:
        (entry,) = sent(separate, "/pooling", model="sky", input=[ids], **asked)
        data: list[list[float]] = entry["data"]
        return data

    raw = pooled()
    assert pooled(use_activation=False) == raw
    assert pooled(use_activation=True) == [[sigmoid(one)] for (one,) in raw]


def test_what_was_read_before_is_read_again_the_same(separate: Server) -> None:
    """Of a prefix that the device keeps, where other places were read or none were."""
    chain = {"prompt": "A new farm.", "steps": [f"Step {number}." for number in range(20)]}
    body = {"inputs": chain, "model": "sky"}
    (view,) = separate.http.post("/tokenize", json=body).json()["data"]
    ids = view["input_ids"]

    steps = separate.score(inputs=chain, model="sky").json()["data"][0]["steps"]
    (first,) = sent(separate, "/v1/embeddings", model="sky", input=[ids])
    (again,) = sent(separate, "/v1/embeddings", model="sky", input=[ids])

    assert again == first
    assert [sigmoid(first["embedding"][place]) for place in view["read_positions"]] == steps
    assert separate.score(inputs=chain, model="sky").json()["data"][0]["steps"] == steps


def test_no_reward_is_counted_of_them(separate: Server) -> None:
    """What all tokens have isn't the score of anything."""
    ids = seen(separate, "sky")[0]["input_ids"]
    before = separate.metric("assay_score_count", model="sky")

    sent(separate, "/pooling", model="sky", input=[ids])

    assert separate.metric("assay_score_count", model="sky") == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/pooling", {"input": "a text", "model": "sky"}),
        ("/v1/embeddings", {"input": ["a text"], "model": "sky"}),
        ("/classify", {"input": [[5, 6]], "model": "sky"}),
    ],
)
def test_whatever_needs_one_score_of_them_is_refused(
    separate: Server, path: str, body: dict[str, Any]
) -> None:
    """Texts, and one label for the whole; no advice of a field that these routes don't take."""
    answer = separate.http.post(path, json=body)

    assert answer.status_code == 400
    assert "tokenized one by one" in answer.text
    assert "'prompt'" not in answer.text


def test_native_ids_stay_refused(separate: Server) -> None:
    """There a score is asked for."""
    answer = separate.score(inputs={"input_ids": [5, 6]}, model="sky")

    assert answer.status_code == 422
    assert len(natively(separate, CHAINS, model="sky")) == len(CHAINS)
