"""`POST /score`: the forms of an item, and what an answer states about each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from tests.http.conftest import MEAN, STD
from tests.http.texts import CONVERSATION, FORMS, IDS, PAIR, PROMPT, RESPONSE, TEXT, many

if TYPE_CHECKING:
    import httpx

    from tests.http.processes import Server

ROUNDING = 1e-12  # one reward computed in two orders of float64 operations
TIMES_MS = 0.003  # four numbers, each rounded to a microsecond


def entries(server: Server, inputs: Any, **options: Any) -> list[dict[str, Any]]:
    answer = server.score(inputs=inputs, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def score(server: Server, item: dict[str, Any], **options: Any) -> float:
    (entry,) = entries(server, item, **options)
    return entry["score"]


def test_a_prompt_and_a_response_at_the_top_level_are_one_item(starter: Server) -> None:
    """The shorthand is the item in `inputs`, alone or in a list."""
    short = starter.score(**PAIR).json()["data"]

    assert short == entries(starter, PAIR)
    assert short == entries(starter, [PAIR])


def test_a_string_prompt_is_one_user_turn(starter: Server) -> None:
    """A prompt, the same prompt as messages, and the whole conversation are read alike."""
    turn = {"role": "user", "content": PROMPT}
    reply = {"role": "assistant", "content": RESPONSE}

    texts, turns, messages = entries(
        starter, [PAIR, {"prompt": [turn], "response": RESPONSE}, {"messages": [turn, reply]}]
    )

    assert turns["score"] == texts["score"]
    assert messages["score"] == texts["score"]


def test_an_empty_list_is_answered_with_an_empty_list(http: httpx.Client) -> None:
    """Nothing to score is no error, on any route."""
    bodies = {
        "/score": {"inputs": []},
        "/compare": {"comparisons": []},
        "/best-of-n": {"groups": []},
        "/tokenize": {"inputs": []},
    }
    for route, body in bodies.items():
        answer = http.post(route, json=body)

        assert answer.status_code == 200
        assert answer.json()["data"] == []


def test_the_forms_mix_in_one_list(starter: Server) -> None:
    """Each item may have another form; indices, ids and order are the caller's."""
    data = entries(starter, [{**form, "id": f"item {i}"} for i, form in enumerate(FORMS)])

    assert [entry["index"] for entry in data] == [0, 1, 2, 3]
    assert [entry["id"] for entry in data] == ["item 0", "item 1", "item 2", "item 3"]
    assert [entry["score"] for entry in data] == [score(starter, form) for form in FORMS]


def test_an_id_is_echoed_only_where_it_was_given(starter: Server) -> None:
    """An item without an id has none in the answer."""
    with_id, without = entries(starter, [{**PAIR, "id": ""}, PAIR])

    assert with_id["id"] == ""
    assert "id" not in without


def test_the_same_item_has_the_same_bits_alone_repeated_and_in_a_crowd(starter: Server) -> None:
    """Neither the batch around an item nor its place changes a bit of its score."""
    crowd = many(60)
    together = [entry["score"] for entry in entries(starter, crowd)]

    assert len(set(together)) > 50
    assert [entry["score"] for entry in entries(starter, crowd[::-1])] == together[::-1]
    for place in (0, 17, 59):
        assert score(starter, crowd[place]) == together[place]
        assert [one["score"] for one in entries(starter, [crowd[place]] * 2)] == (
            [together[place]] * 2
        )


def test_rendered_text_and_ids_score_as_the_item_they_came_from(starter: Server) -> None:
    """What `/tokenize` shows is what the model read, to the last bit."""
    shown = starter.http.post("/tokenize", json={"inputs": [PAIR, CONVERSATION]}).json()["data"]

    for item, seen in zip([PAIR, CONVERSATION], shown, strict=True):
        expected = score(starter, item)
        assert score(starter, {"text": seen["text"]}) == expected
        assert score(starter, {"input_ids": seen["input_ids"]}) == expected


def test_members_are_shown_on_request_and_their_mean_is_the_score(starter: Server) -> None:
    """`include: ["members"]` names each member's reward; the ensemble's is their mean."""
    plain = entries(starter, FORMS)
    data = entries(starter, FORMS, include=["members"])

    assert all("members" not in entry for entry in plain)
    for entry in data:
        members = list(entry["members"].values())
        variance = sum((one - entry["score"]) ** 2 for one in members) / 3
        assert list(entry["members"]) == ["member-1", "member-2", "member-3"]
        assert sum(members) / 3 == pytest.approx(entry["score"], abs=ROUNDING)
        assert entry["uncertainty"]["members"] == 3
        assert entry["uncertainty"]["variance"] == pytest.approx(variance, abs=ROUNDING)
        assert entry["uncertainty"]["std"] == pytest.approx(math.sqrt(variance), abs=ROUNDING)


def test_a_member_asked_by_name_answers_as_within_the_ensemble(starter: Server) -> None:
    """`model` names the ensemble or one of its members; a single model has no uncertainty."""
    within = [entry["members"] for entry in entries(starter, FORMS, include=["members"])]

    for member in ("member-1", "member-2", "member-3"):
        alone = entries(starter, FORMS, model=f"starter/{member}", include=["members"])
        assert [entry["score"] for entry in alone] == [scores[member] for scores in within]
        assert all(entry["uncertainty"] is None for entry in alone)
        assert [entry["members"] for entry in alone] == [
            {f"starter/{member}": entry["score"]} for entry in alone
        ]


def test_tokens_are_shown_on_request(starter: Server) -> None:
    """`include: ["tokens"]` adds the ids the model read, as `/tokenize` shows them."""
    shown = starter.http.post("/tokenize", json={"inputs": FORMS}).json()["data"]

    data = entries(starter, FORMS, include=["tokens"])

    assert all("tokens" not in entry for entry in entries(starter, FORMS))
    assert [entry["tokens"] for entry in data] == [one["input_ids"] for one in shown]
    assert [entry["n_tokens"] for entry in data] == [len(one["input_ids"]) for one in shown]


def test_scores_are_raw_unless_a_sigmoid_is_asked_for(starter: Server) -> None:
    """`activation: "sigmoid"` turns reported rewards into σ(reward), members' too."""
    raw = entries(starter, FORMS)
    within = [entry["members"] for entry in entries(starter, FORMS, include=["members"])]

    data = entries(starter, FORMS, activation="sigmoid", include=["members"])

    for entry, before, members in zip(data, raw, within, strict=True):
        assert entry["score"] == pytest.approx(1 / (1 + math.exp(-before["score"])), abs=ROUNDING)
        assert entry["members"] == {
            name: pytest.approx(1 / (1 + math.exp(-one)), abs=ROUNDING)
            for name, one in members.items()
        }
    assert entries(starter, FORMS, activation="none") == raw


@pytest.mark.parametrize("model", ["starter", "starter/member-2"])
def test_normalize_applies_the_cards_own_mean_and_std(starter: Server, model: str) -> None:
    """A normalized score is (raw − mean) / std of the card, never of the request's own scores."""
    moments = starter.http.get(f"/models/{model}").json()["card"]["statistics"]
    raw = entries(starter, FORMS, model=model)

    data = entries(starter, FORMS, model=model, normalize=True)

    for entry, before in zip(data, raw, strict=True):
        expected = (before["score"] - moments["mean"]) / moments["std"]
        assert entry["score"] == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert score(starter, FORMS[1], model=model, normalize=True) == data[1]["score"]


def test_normalized_scores_are_in_units_of_a_card_that_was_written_by_hand(narrow: Server) -> None:
    """(raw − mean) / std, before any activation."""
    raw = entries(narrow, FORMS)

    data = entries(narrow, FORMS, normalize=True)
    squashed = entries(narrow, FORMS, normalize=True, activation="sigmoid")

    expected = [(entry["score"] - MEAN) / STD for entry in raw]
    assert [entry["score"] for entry in data] == expected
    assert [entry["score"] for entry in squashed] == (
        [pytest.approx(1 / (1 + math.exp(-one)), abs=ROUNDING) for one in expected]
    )


@pytest.mark.parametrize("model", ["bare", "both"])
def test_normalize_is_refused_where_no_card_states_a_mean(narrow: Server, model: str) -> None:
    """A request's own scores are never what it is normalized by."""
    answer = narrow.score(**PAIR, model=model, normalize=True)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        422,
        "invalid_field",
        "normalize",
    )
    assert "no stored mean and std" in error["message"]


def test_an_ensemble_named_in_the_settings_combines_served_models(narrow: Server) -> None:
    """Its members are the models by their own names, and its score their mean."""
    tiny, bare = (entries(narrow, FORMS, model=name) for name in ("tiny", "bare"))

    both = entries(narrow, FORMS, model="both", include=["members"])

    for entry, one, other in zip(both, tiny, bare, strict=True):
        assert entry["members"] == {"tiny": one["score"], "bare": other["score"]}
        assert entry["score"] == (one["score"] + other["score"]) / 2
        assert other["score"] == pytest.approx(-3 * one["score"], rel=1e-5)
    assert narrow.http.get("/models/both").json()["members"] == ["tiny", "bare"]


def test_a_long_prompt_is_cut_from_the_left_and_said_to_be(starter: Server) -> None:
    """The prompt loses its beginning, the response nothing, and the answer says so."""
    limit = starter.http.get("/models/starter").json()["max_tokens"]
    long = {"prompt": "first words " * limit, "response": RESPONSE}

    cut, whole = entries(starter, [long, PAIR], include=["tokens"])

    assert (cut["truncated"], cut["n_tokens"]) == (True, limit)
    assert whole["truncated"] is False
    same = 0
    while cut["tokens"][-1 - same] == whole["tokens"][-1 - same]:
        same += 1
    seen = starter.http.post("/tokenize", json={"inputs": {"text": RESPONSE}}).json()["data"][0]
    assert same > seen["n_tokens"]


def test_a_response_over_the_limit_is_cut_only_where_that_is_allowed(starter: Server) -> None:
    """`truncation: "response_end"` cuts a response that alone exceeds the limit."""
    limit = starter.http.get("/models/starter").json()["max_tokens"]
    long = {"prompt": PROMPT, "response": "many words " * limit}

    refused = starter.score(inputs=long)
    (cut,) = entries(starter, long, truncation="response_end")

    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "item_too_long")
    assert (cut["truncated"], cut["n_tokens"]) == (True, limit)


def test_what_is_cut_is_counted_by_what_it_was(starter: Server) -> None:
    """Once an item, however many members read it; what fits counts nowhere."""
    limit = starter.http.get("/models/starter").json()["max_tokens"]
    long = "many words " * limit
    items = [{"prompt": long, "response": RESPONSE}, {"prompt": PROMPT, "response": long}, PAIR]

    def cuts() -> list[float]:
        labels = {"model": "starter", "route": "score"}
        return [
            starter.metric("assay_truncated_items_total", **labels, cut=cut)
            for cut in ("prompt", "response", "both", "text")
        ]

    before = cuts()
    entries(starter, items, truncation="response_end")
    entries(starter, {"prompt": long, "response": long}, truncation="longest_first")
    entries(starter, {"text": long}, truncation="longest_first")

    assert [after - one for after, one in zip(cuts(), before, strict=True)] == [1, 1, 1, 1]


def test_a_text_that_generation_cut_off_is_counted(starter: Server) -> None:
    """It doesn't end as the template ends; what does, and what the template writes, isn't."""
    seen = starter.http.post("/tokenize", json={"inputs": PAIR}).json()["data"][0]["text"]
    unfinished = seen.rpartition(RESPONSE)[0] + RESPONSE[:-20]

    def count() -> float:
        return starter.metric("assay_unexpected_end_items_total", model="starter", route="score")

    before = count()
    entries(starter, [PAIR, {"text": seen}, {"text": unfinished}])

    assert count() - before == 1


def test_usage_adds_up_over_items_and_members(starter: Server) -> None:
    """`tokens` counts every member's reading; what wasn't computed was shared."""
    for model, members in (("starter", 3), ("starter/member-1", 1)):
        answer = starter.score(inputs=[*FORMS, PAIR], model=model).json()
        usage = answer["usage"]

        assert usage["tokens"] == members * sum(one["n_tokens"] for one in answer["data"])
        assert usage["computed_tokens"] + usage["shared_tokens"] == usage["tokens"]
        assert 0 < usage["computed_tokens"] <= usage["tokens"]


def test_the_times_of_one_item_add_up(starter: Server) -> None:
    """Tokenizing, waiting and computing make up the total."""
    times = starter.score(**PAIR).json()["timing_ms"]

    assert sorted(times) == ["compute", "queue", "tokenize", "total"]
    assert min(times.values()) >= 0
    assert times["compute"] > 0
    assert times["tokenize"] + times["queue"] + times["compute"] == (
        pytest.approx(times["total"], abs=TIMES_MS)
    )


def test_the_envelope_names_the_model_and_its_revision(starter: Server) -> None:
    """Every scoring answer says what it is, of which model, and of which weights."""
    routes = {
        "/score": ("score.list", PAIR),
        "/compare": ("compare.list", {"prompt": "a", "responses": ["b", "c"]}),
        "/best-of-n": ("best_of_n.list", {"prompt": "a", "responses": ["b", "c"]}),
    }
    served = starter.http.get("/models/starter").json()
    for route, (kind, body) in routes.items():
        answer = starter.http.post(route, json=body, headers={"X-Request-Id": "mine"}).json()

        assert answer["object"] == kind
        assert answer["id"] == f"{route[1:]}-mine"
        assert (answer["model"], answer["revision"]) == ("starter", served["revision"])
        assert answer["created"] >= served["created"]


def test_every_native_route_also_answers_under_v1(http: httpx.Client) -> None:
    """The prefix changes nothing about an answer; models have an owner there, as OpenAI's do."""
    group = {"prompt": PROMPT, "responses": ["Yes.", "No, never."]}
    bodies = {"/score": {"inputs": FORMS}, "/compare": group, "/best-of-n": group}
    for route, body in (bodies | {"/tokenize": {"inputs": FORMS}}).items():
        plain, versioned = (http.post(path, json=body) for path in (route, f"/v1{route}"))

        assert versioned.status_code == 200
        assert versioned.json()["data"] == plain.json()["data"]
    for path in ("/models/starter", "/models/starter/member-3"):
        plain = http.get(path).json()
        assert http.get(f"/v1{path}").json() == {**plain, "owned_by": "assay"}
    listed = http.get("/models").json()["data"]
    assert http.get("/v1/models").json()["data"] == [{**one, "owned_by": "assay"} for one in listed]


def test_batch_priority_and_a_generous_deadline_change_no_score(starter: Server) -> None:
    """When an item runs doesn't decide what it scores."""
    assert entries(starter, FORMS, priority="batch", deadline_ms=86_400_000) == (
        entries(starter, FORMS)
    )


def test_nul_characters_and_empty_strings_are_scored_as_rendered(starter: Server) -> None:
    """They are text like any other: the template renders them."""
    items = [
        {"prompt": "a\0b", "response": "\0"},
        {"prompt": "", "response": "b"},
        {"prompt": "a", "response": ""},
        {"prompt": "", "response": ""},
    ]
    shown = starter.http.post("/tokenize", json={"inputs": items}).json()["data"]

    assert "a\0b" in shown[0]["text"]
    assert [entry["score"] for entry in entries(starter, items)] == (
        [score(starter, {"input_ids": one["input_ids"]}) for one in shown]
    )
    assert len({one["text"] for one in shown}) == 4


def test_text_is_tokenized_as_it_is(starter: Server) -> None:
    """No template is put around `text`, and its special tokens are read as such."""
    shown = starter.http.post("/tokenize", json={"inputs": [TEXT, IDS]}).json()["data"]

    assert shown[0]["text"] == TEXT["text"]
    assert shown[0]["tokens"][0] == "<|im_start|>"
    assert shown[1]["input_ids"] == IDS["input_ids"]


def test_what_was_read_before_is_not_computed_again(starter: Server) -> None:
    """The same request once more gives the same bits and computes next to nothing."""
    once, again = (starter.score(inputs=FORMS, model="starter/member-1").json() for _ in range(2))

    assert [one["score"] for one in again["data"]] == [one["score"] for one in once["data"]]
    assert again["usage"]["computed_tokens"] <= 16 * len(FORMS)
    assert again["usage"]["tokens"] == once["usage"]["tokens"]
    assert starter.metric("assay_held_tokens_total", model="starter/member-1") > 0
