"""Several targets over the same models: which of them read an item, and what each makes of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from assay.errors import EmptyItem, ForwardFailed, NotReady
from assay.items import TokenizedItem
from assay.scoring import results
from assay.scoring.target_union import TargetUnion
from assay.timings import Timings

A, B, C = (SimpleNamespace(name=name) for name in "abc")
ITEM = TokenizedItem(np.array([1, 2, 3], np.int32), None)
LONGER = TokenizedItem(np.array([1, 2, 3, 4, 5], np.int32), None)
REFUSED = EmptyItem("nothing is left")


def target(name: str, *models: Any) -> Any:
    return SimpleNamespace(name=name, members=models, revision=f"revision-{name}")


def union(*required: bool) -> TargetUnion:
    """Return one of three targets: "one" has model a, "both" a and b, "other" c."""
    targets = [target("one", A), target("both", A, B), target("other", C)]
    return TargetUnion.of(targets, required)


def numbers(value: float) -> Any:
    return np.array([[value]])


def test_a_model_that_two_targets_have_stands_there_once() -> None:
    """Each target knows where its own are."""
    every = union(True, True, False)

    assert every.members == (A, B, C)
    assert every.places == ((0,), (0, 1), (2,))
    assert every.required_places == {0, 1}
    assert (every.name, TargetUnion.of([target("one", A)]).revision) == (
        "one+both+other",
        "revision-one",
    )


@pytest.mark.parametrize(
    ("required", "row", "readers"),
    [
        ((True, True, True), [ITEM, ITEM, ITEM], [0, 1, 2]),
        ((True, True, True), [ITEM, ITEM, REFUSED], []),
        ((True, True, False), [ITEM, ITEM, REFUSED], [0, 1]),
        ((True, False, True), [ITEM, REFUSED, ITEM], [0, 2]),
        ((False, False, True), [REFUSED, ITEM, ITEM], [2]),  # b is of a target that a fails
        ((True, False, True), [REFUSED, ITEM, ITEM], []),
    ],
)
def test_an_item_runs_where_its_rewards_are_wanted(
    required: tuple[bool, ...], row: list[Any], readers: list[int]
) -> None:
    """By none if a required target can't read it; else not by those whose target can't."""
    assert list(union(*required).readers(row)) == readers


def test_each_target_has_its_own_results() -> None:
    """An error of a model is one of those targets that have it; tokens are those that were read."""
    failed = ForwardFailed("failed")
    rows = [[ITEM, LONGER, ITEM], [ITEM, LONGER, REFUSED], [ITEM, LONGER, ITEM]]
    read = [
        [numbers(1.0), numbers(2.0), numbers(3.0)],
        [numbers(4.0), failed, None],
        [numbers(6.0), numbers(7.0), numbers(8.0)],
    ]

    (one, one_tokens), (both, both_tokens), (other, other_tokens) = results.by_target(
        union(True, False, False), rows, cast("Any", read)
    )

    assert [item.numbers for item in one] == [(1.0,), (4.0,), (6.0,)]
    assert [item.numbers for item in both] == [(1.0, 2.0), None, (6.0, 7.0)]
    assert [item.error for item in both] == [None, failed, None]
    assert [item.error for item in other] == [None, REFUSED, None]
    assert (one_tokens, both_tokens, other_tokens) == (9, 16, 6)


def test_what_a_required_target_refuses_is_read_by_nobody() -> None:
    """It alone has the error, and no other target has a number."""
    rows, read = [[ITEM, ITEM, REFUSED]], [[None, None, None]]

    columns = results.by_target(union(True, True, True), rows, cast("Any", read))

    assert [[item.error for item in items] for items, _ in columns] == [[None], [None], [REFUSED]]
    assert [[item.numbers for item in items] for items, _ in columns] == [[None]] * 3


def test_targets_that_could_not_be_asked_keep_their_places() -> None:
    """All of their items have the reason."""
    every, away = union(True, False, True), NotReady("away")
    asked = every.without({1})
    of_two = results.RequestResult([["x"], ["z"]], [3, 4], 7, 7, Timings(*[0.0] * 5))  # type: ignore[list-item]

    whole = results.with_absent(of_two, {1: away}, 1)

    assert [one.name for one in asked.targets] == ["one", "other"]
    assert (asked.required, asked.members) == ((True, True), (A, C))
    assert (whole.by_target[0], whole.by_target[2]) == (["x"], ["z"])
    assert [item.error for item in whole.by_target[1]] == [away]
    assert (whole.target_tokens, whole.of(2).tokens) == ([3, 0, 4], 4)
