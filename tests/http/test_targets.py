"""Several named rewards in one request: what it says, what it costs, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from assay import Client, wire
from assay.errors import InvalidField
from tests.families.attributes import ITEMS
from tests.http.conftest import MEAN, STD
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.processes import Server

NAMES = ["tiny", "helpsteer", "crew", "mix", "guarded", "math"]
STEPS: dict[str, Any] = {"prompt": "Why?", "steps": ["Because.", "So it is."]}
OPTIONAL = {"target": "tiny", "required": False}
ONLY_THERE = {"index", "id"}


def answered(server: Server, inputs: Any, **options: Any) -> dict[str, Any]:
    answer = server.score(inputs=inputs, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def alone(server: Server, inputs: Any, **options: Any) -> list[dict[str, Any]]:
    """Return what the entries of a request to one target say of its reward."""
    data = answered(server, inputs, **options)["data"]
    return [{name: entry[name] for name in entry if name not in ONLY_THERE} for entry in data]


def test_each_target_says_what_it_says_alone(families: Server) -> None:
    """Whatever kind it is: score, spread, attributes, steps and gate, to the bit."""
    data = answered(families, ITEMS, targets=NAMES)["data"]

    for name in NAMES:
        assert [entry["rewards"][name] for entry in data] == alone(families, ITEMS, model=name)
    assert [list(entry["rewards"]) for entry in data] == [NAMES] * len(ITEMS)


def test_a_score_beside_them_is_that_of_the_model(families: Server) -> None:
    """It is scored, too, if it isn't among them; without one there is none, and that's no error."""
    led, bare = (
        answered(families, ITEMS, targets=["helpsteer"], **options)
        for options in ({"model": "tiny"}, {})
    )

    own = alone(families, ITEMS, model="tiny")
    assert [
        {name: value for name, value in entry.items() if name not in {"index", "rewards"}}
        for entry in led["data"]
    ] == own
    assert [list(entry["rewards"]) for entry in led["data"]] == [["helpsteer"]] * len(ITEMS)
    assert {(entry["score"], entry.get("error")) for entry in bare["data"]} == {(None, None)}


def test_the_answer_names_each_revision(families: Server, tiny: Path) -> None:
    """By the names that were asked by; of all together there is one that changes with any."""
    served = {one["id"]: one["revision"] for one in families.http.get("/models").json()["data"]}

    answer = answered(families, [PAIR], targets=[str(tiny), "crew"])

    assert answer["targets"] == {
        str(tiny): {"model": "tiny", "revision": served["tiny"]},
        "crew": {"model": "crew", "revision": served["crew"]},
    }
    assert answer["model"] == "tiny+crew"
    assert answer["revision"] not in served.values()


def test_a_model_that_targets_share_runs_once(families: Server) -> None:
    """The tokens are those of the models, not of the targets."""
    items = [{"prompt": "Who shares?", "response": "Two of three."}]
    together = answered(families, items, targets=["crew", "tiny", "guarded"], cache_salt="a")

    one_by_one = [
        answered(families, items, model=name, cache_salt=name)["usage"]["tokens"]
        for name in ("tiny", "odin")
    ]
    assert together["usage"]["tokens"] == sum(one_by_one)


def test_what_an_optional_target_cannot_score_is_null_with_its_error(families: Server) -> None:
    """Never 0; the others' rewards stand, and the request is answered."""
    entry = answered(families, STEPS, targets=["math", OPTIONAL])["data"][0]

    assert "error" not in entry
    assert entry["rewards"]["math"] == alone(families, STEPS, model="math")[0]
    assert entry["rewards"]["tiny"]["score"] is None
    assert entry["rewards"]["tiny"]["error"]["code"] == "invalid_field"


def test_what_means_nothing_to_an_optional_target_is_its_error(families: Server) -> None:
    """What the request asks of all; what its own entry asks wrongly is refused, as if required."""
    (raw,) = alone(families, [PAIR], model="tiny", normalize=True)
    optional = {"target": "odin", "required": False}
    for options in ({}, {"model": "tiny"}):
        answer = answered(families, [PAIR], targets=[optional, "tiny"], normalize=True, **options)
        (entry,) = answer["data"]
        assert list(entry["rewards"]) == list(answer["targets"]) == ["odin", "tiny"]
        assert entry["rewards"]["tiny"] == raw
        assert entry["rewards"]["odin"]["score"] is None
        assert "no stored mean and std" in entry["rewards"]["odin"]["error"]["message"]

    for refused, options in (
        ([optional], {}),
        ([optional, "tiny"], {"model": "odin"}),
        ([optional | {"normalize": True}, "tiny"], {}),
    ):
        body = {"normalize": True, **options} if refused[0] == optional else options
        error = families.score(inputs=[PAIR], targets=refused, **body).json()["error"]
        assert "no stored mean and std" in error["message"]


def test_an_item_that_a_required_target_cannot_score_fails(families: Server) -> None:
    """It says which, and is scored by none; the items beside it are."""
    good, bad = answered(families, [ITEMS[0], STEPS], targets=["math", "tiny"], on_error="item")[
        "data"
    ]
    whole = families.score(inputs=[ITEMS[0], STEPS], targets=["math", "tiny"])

    assert sorted(good["rewards"]) == ["math", "tiny"]
    assert bad["score"] is None
    assert "rewards" not in bad
    assert (bad["error"]["code"], bad["error"]["target"]) == ("invalid_field", "tiny")
    error = whole.json()["error"]
    assert (whole.status_code, error["param"]) == (422, "inputs[1].steps")
    assert error["message"].startswith("'tiny': ")


def test_a_target_may_have_options_of_its_own(families: Server) -> None:
    """Weights of its attributes, and its own moments; others keep the request's."""
    (entry,) = answered(
        families,
        [ITEMS[0]],
        targets=[
            {"target": "helpsteer", "attributes": {"helpfulness": 1.0}},
            {"target": "tiny", "normalize": True},
            "odin",
        ],
        include=["attributes", "members"],
        activation="none",
    )["data"]

    helpsteer, tiny, odin = entry["rewards"].values()
    assert helpsteer["score"] == helpsteer["attributes"]["helpfulness"]
    (raw,) = alone(families, [ITEMS[0]], model="tiny")
    assert tiny["score"] == (raw["score"] - MEAN) / STD
    assert odin == alone(families, [ITEMS[0]], model="odin", include=["members"])[0]


@pytest.mark.parametrize(
    ("options", "status", "param", "words"),
    [
        ({"targets": ["tiny", "none-such"]}, 404, "targets[1]", "there are 'tiny', "),
        ({"targets": ["pairrm"]}, 422, "targets[0]", "use /compare or /best-of-n"),
        ({"targets": ["tiny", "tiny"]}, 422, "targets", "named twice"),
        ({"targets": []}, 422, "targets", "at least 1"),
        ({"targets": [str(number) for number in range(17)]}, 422, "targets", "at most 16"),
        ({"targets": [{"target": "tiny", "require": True}]}, 422, "targets[0].require", "unknown"),
        ({"targets": ["tiny", 7]}, 422, "targets[1]", "send a target's name"),
        ({"targets": ["tiny", "odin"], "normalize": True}, 422, "normalize", "'odin'"),
        (
            {"targets": [{"target": "odin", "normalize": True}]},
            *(422, "targets[0].normalize", "no stored mean"),
        ),
        (
            {"targets": ["odin"], "attributes": {"quality": 1.0}},
            *(422, "targets", "in the entry of a target"),
        ),
        (
            {"targets": [{"target": "odin", "attributes": {"wit": 1.0}}]},
            *(422, "targets[0].attributes", "it has length, quality"),
        ),
        ({"targets": ["tiny", "odin"], "threshold": 0.5}, 422, "threshold", "no target"),
        ({"targets": ["tiny"], "include": ["steps"]}, 422, "include", "no target has steps"),
        ({"targets": ["tiny"], "model": "none-such"}, 404, "model", "is served"),
        ({"targets": ["tiny"], "model": "pairrm"}, 422, "model", "use /compare"),
    ],
)
def test_what_targets_cannot_be_asked_is_refused(
    families: Server, options: dict[str, Any], status: int, param: str, words: str
) -> None:
    """In a sentence that names the field, and before anything is scored."""
    answer = families.score(inputs=[PAIR], **options)

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert words in error["message"]


def test_a_target_is_named_once_whatever_it_is_called(families: Server, tiny: Path) -> None:
    """A path and a name may be of one target: its rewards would be one."""
    error = families.score(inputs=[PAIR], targets=["tiny", str(tiny)]).json()["error"]

    assert error["param"] == "targets[1]"
    assert "'tiny', which is named already" in error["message"]


def test_several_targets_have_a_request_s_items_between_them(families: Server) -> None:
    """What a request may ask for is bounded over all of its targets."""
    items = [{"input_ids": [1]}] * 22_000
    answer = families.score(inputs=items, targets=["tiny", "odin", "math"])

    assert answer.status_code == 413
    assert "for each of 3 targets; send at most 21845" in answer.json()["error"]["message"]


def test_targets_are_known_on_the_path_that_is_shared_with_vllm(families: Server) -> None:
    """`/v1/score` answers the same."""
    body = {"inputs": [ITEMS[0]], "targets": ["tiny", "odin"]}

    data = families.http.post("/v1/score", json=body).json()["data"]

    assert data == answered(families, **body)["data"]


def test_no_items_are_an_empty_answer(families: Server) -> None:
    """As of one target."""
    assert answered(families, [], targets=["tiny", "odin"])["data"] == []


def test_the_client_asks_for_several(families: Server) -> None:
    """Typed entries; an optional target's error is in its reward, a required one's is raised."""
    optional = wire.NamedTarget(target="tiny", required=False)
    with Client(families.url) as client:
        both, steps = client.score([ITEMS[0], STEPS], targets=["math", optional])
        (known,) = client.score([ITEMS[0]], targets=["tiny", {"target": "odin"}])
        with pytest.raises(InvalidField, match="'tiny': "):
            client.score(STEPS, targets=["math", "tiny"])

    assert both.rewards is not None
    assert steps.rewards is not None
    assert both.rewards["math"].steps == alone(families, [ITEMS[0]], model="math")[0]["steps"]
    assert both.rewards["tiny"].score == alone(families, [ITEMS[0]], model="tiny")[0]["score"]
    assert steps.rewards["tiny"].score is None
    assert steps.rewards["tiny"].error is not None
    assert list(known.rewards or ()) == ["tiny", "odin"]


def test_metrics_count_each_target(families: Server) -> None:
    """As if each had been asked alone, tokens of its own models included."""

    def counted() -> list[list[float]]:
        labels = [{"model": name, "route": "score"} for name in ("tiny", "crew")]
        return [
            [
                families.metric("assay_requests_total", outcome="ok", **own),
                families.metric("assay_items_total", **own),
                families.metric("assay_tokens_total", **own),
                families.metric("assay_request_duration_seconds_count", **own),
                families.metric("assay_http_seconds_count", **own),
            ]
            for own in labels
        ]

    begin = counted()
    answered(families, ITEMS[:3], targets=["tiny", "crew"])
    together = counted()
    for name in ("tiny", "crew"):
        answered(families, ITEMS[:3], model=name)
    apart = counted()

    first, second = (
        [
            [late - early for early, late in zip(*pair, strict=True)]
            for pair in zip(before, after, strict=True)
        ]
        for before, after in ((begin, together), (together, apart))
    )
    assert first == second


def test_an_answer_with_a_null_reward_is_counted_as_partial(families: Server) -> None:
    """As one with an item that has an error is."""
    before = families.metric("assay_requests_total", model="math", outcome="partial")
    answered(families, STEPS, targets=["math", OPTIONAL])

    after = families.metric("assay_requests_total", model="math", outcome="partial")
    assert after - before == 1
