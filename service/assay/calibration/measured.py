"""What a target made of the labelled pairs: rewards by member beside the texts they are of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from assay.calibration import pairs
from assay.errors import InvalidField

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assay.calibration.pairs import Example

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of responses, the better one first; `rewards` is (pairs, 2, members)."""

    groups: list[str]
    texts: list[tuple[str, str]]
    rewards: np.ndarray

    @property
    def margins(self) -> np.ndarray:
        """Margins of mean rewards, chosen − rejected."""
        means = self.rewards.mean(axis=2)
        return np.asarray(means[:, 0] - means[:, 1])

    @property
    def by_member(self) -> np.ndarray:
        """(pairs, members): each member's own margin."""
        return np.asarray(self.rewards[:, 0] - self.rewards[:, 1])

    def of(self, kept: Sequence[bool]) -> Self:
        """Return some of the pairs."""
        places = np.flatnonzero(kept)
        return replace(
            self,
            groups=[self.groups[place] for place in places],
            texts=[self.texts[place] for place in places],
            rewards=self.rewards[places],
        )

    def shifted(self, offset: Callable[[str], float]) -> Self:
        """Return the pairs with what to add to each response's rewards added."""
        offsets = np.array([[offset(text) for text in both] for both in self.texts])
        return replace(self, rewards=self.rewards + offsets.reshape(-1, 2, 1))

    def responses(self) -> tuple[list[str], np.ndarray]:
        """Return each response's text and mean reward."""
        return [text for both in self.texts for text in both], self.rewards.mean(axis=2).ravel()


@dataclass(frozen=True, slots=True)
class Labelled:
    """Responses labelled 0 or 1, with their mean rewards."""

    groups: list[str]
    texts: list[str]
    scores: np.ndarray
    labels: np.ndarray

    def of(self, kept: Sequence[bool]) -> Self:
        """Return some of the responses."""
        places = np.flatnonzero(kept)
        return replace(
            self,
            groups=[self.groups[place] for place in places],
            texts=[self.texts[place] for place in places],
            scores=self.scores[places],
            labels=self.labels[places],
        )

    def shifted(self, offset: Callable[[str], float]) -> Self:
        """Return the responses with what to add to each score added."""
        offsets = np.array([offset(text) for text in self.texts])
        return replace(self, scores=self.scores + offsets)


@dataclass(frozen=True, slots=True)
class Measured:
    """All of a file; `failed` lines have no score, by the code of the error."""

    pairs: Pairs
    labelled: Labelled
    failed: dict[str, int]


def measured(examples: Sequence[Example], answers: Sequence[Answer]) -> Measured:
    """Return examples with their answers, which are those of `assay score` with members.

    Raises:
        InvalidField: Too few were scored.
    """
    failed: dict[str, int] = {}
    kept: dict[str, list[tuple[Example, list[list[float]]]]] = {
        "chosen": [],
        "label": [],
        "score": [],
    }
    for example, answer in zip(examples, answers, strict=True):
        if error := answer.get("error"):
            failed[error["code"]] = failed.get(error["code"], 0) + 1
        else:
            kept[example.kind].append((example, _rewards(answer, example)))
    found = Measured(_pairs(kept["chosen"], kept["score"]), _labelled(kept["label"]), failed)
    for count, what in (
        (len(found.pairs.groups), "pairs"),
        (len(found.labelled.groups), "labelled responses"),
    ):
        if 0 < count < pairs.FEWEST:
            raise InvalidField(
                f"there are {count} {what}, and {pairs.FEWEST} are needed{_of(failed)}"
            )
    if not found.pairs.groups and not found.labelled.groups:
        raise InvalidField(f"there is nothing to fit{_of(failed)}")
    return found


def _of(failed: dict[str, int]) -> str:
    """Say which lines have no score."""
    said = ", ".join(f"{count} × {code}" for code, count in failed.items())
    return f"; of some lines there is no score: {said}" if said else ""


def _rewards(answer: Answer, example: Example) -> list[list[float]]:
    """Return each response's rewards: its members' of an ensemble, else its score."""
    if example.kind == "chosen":
        if answer["margin_std"] is not None:
            return [list(members.values()) for members in answer["members"]]
        return [[score] for score in answer["scores"]]
    if answer["uncertainty"] is not None:
        return [list(answer["members"].values())]
    return [[answer["score"]]]


def _pairs(
    compared: Sequence[tuple[Example, list[list[float]]]],
    scored: Sequence[tuple[Example, list[list[float]]]],
) -> Pairs:
    groups = [example.group for example, _ in compared]
    texts = [(example.responses[0], example.responses[1]) for example, _ in compared]
    rewards = [both for _, both in compared]
    examples = [example for example, _ in scored]
    for better, worse in pairs.scored_pairs(examples):
        groups.append(examples[better].group)
        texts.append((examples[better].responses[0], examples[worse].responses[0]))
        rewards.append([scored[better][1][0], scored[worse][1][0]])
    members = len(rewards[0][0]) if rewards else 1
    return Pairs(groups, texts, np.array(rewards, dtype=float).reshape(-1, 2, members))


def _labelled(labelled: Sequence[tuple[Example, list[list[float]]]]) -> Labelled:
    return Labelled(
        [example.group for example, _ in labelled],
        [example.responses[0] for example, _ in labelled],
        np.array([np.mean(rewards[0]) for _, rewards in labelled]),
        np.array([example.value for example, _ in labelled]),
    )
