"""What a target made of the labelled pairs: its scores and its members' beside their texts."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from assay.calibration import pairs
from assay.errors import InvalidField

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assay.calibration.pairs import Example

Answer = dict[str, Any]


class _Read(NamedTuple):
    """What a target made of one response: its score, and its members' rewards."""

    score: float
    rewards: list[float]


@dataclass(frozen=True, slots=True)
class _Part:
    """Lists and arrays of one length, an element for each pair or response."""

    groups: list[str]

    def of(self, kept: Sequence[bool]) -> Self:
        """Return some of them."""
        some: dict[str, Any] = {}
        for field in fields(self):
            values = getattr(self, field.name)
            is_array = isinstance(values, np.ndarray)
            some[field.name] = (
                values[np.array(kept, dtype=bool)] if is_array else [*compress(values, kept)]
            )
        return replace(self, **some)


@dataclass(frozen=True, slots=True)
class Pairs(_Part):
    """Pairs of responses, the better one first.

    `scores` are the target's own, (pairs, 2); `rewards` its members', (pairs, 2, members).
    `references` say of each response whether it is a reference answer to its prompt.
    """

    prompts: list[str]
    texts: list[tuple[str, str]]
    references: list[tuple[bool, bool]]
    scores: np.ndarray
    rewards: np.ndarray

    @property
    def margins(self) -> np.ndarray:
        """Margins of the target's scores, chosen − rejected."""
        return np.asarray(self.scores[:, 0] - self.scores[:, 1])

    @property
    def by_member(self) -> np.ndarray:
        """(pairs, members): each member's own margin."""
        return np.asarray(self.rewards[:, 0] - self.rewards[:, 1])

    def shifted(self, offset: Callable[[str], float]) -> Self:
        """Return the pairs with what to add to each response's score added."""
        offsets = np.array([[offset(text) for text in both] for both in self.texts]).reshape(-1, 2)
        return replace(
            self, scores=self.scores + offsets, rewards=self.rewards + offsets[:, :, None]
        )

    def responses(self) -> tuple[list[str], np.ndarray]:
        """Return each response's text and score."""
        return [text for both in self.texts for text in both], self.scores.ravel()


@dataclass(frozen=True, slots=True)
class Labelled(_Part):
    """Responses labelled 0 or 1, with the target's scores."""

    texts: list[str]
    scores: np.ndarray
    labels: np.ndarray

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
    kept: dict[str, list[tuple[Example, list[_Read]]]] = {
        "chosen": [],
        "label": [],
        "score": [],
    }
    for example, answer in zip(examples, answers, strict=True):
        if error := answer.get("error"):
            failed[error["code"]] = failed.get(error["code"], 0) + 1
        else:
            kept[example.kind].append((example, _read(answer, example)))
    found = Measured(_pairs(kept["chosen"], kept["score"]), _labelled(kept["label"]), failed)
    for part, what in ((found.pairs, "pairs"), (found.labelled, "labelled responses")):
        if part.groups:
            pairs.check_count(len(part.groups), what, _of(failed))
    for scores in (found.pairs.scores, found.labelled.scores):
        if (np.abs(scores) > pairs.MOST).any():
            raise InvalidField(f"a score is over {pairs.MOST:g}, which nothing can be fitted to")
    if not found.pairs.groups and not found.labelled.groups:
        raise InvalidField(f"there is nothing to fit{_of(failed)}")
    return found


def _of(failed: dict[str, int]) -> str:
    """Say which lines have no score."""
    said = ", ".join(f"{count} × {code}" for code, count in failed.items())
    return f"; of some lines there is no score: {said}" if said else ""


def _read(answer: Answer, example: Example) -> list[_Read]:
    """Return what was made of each response; of what is no ensemble the score is its reward."""
    if example.kind == "chosen":
        scores, is_several = answer["scores"], answer["margin_std"] is not None
        members = answer["members"] if is_several else [None] * len(scores)
    else:
        scores, is_several = [answer["score"]], answer["uncertainty"] is not None
        members = [answer["members"] if is_several else None]
    return [
        _Read(score, [score] if named is None else list(named.values()))
        for score, named in zip(scores, members, strict=True)
    ]


def _pairs(
    compared: Sequence[tuple[Example, list[_Read]]],
    scored: Sequence[tuple[Example, list[_Read]]],
) -> Pairs:
    references: dict[str, set[str]] = {}
    for example, _ in (*compared, *scored):
        if example.reference is not None:
            references.setdefault(example.prompt_key, set()).add(example.reference)
    examples = [example for example, _ in compared]
    texts = [(example.responses[0], example.responses[1]) for example in examples]
    read = [both for _, both in compared]
    for better, worse in pairs.scored_pairs([example for example, _ in scored]):
        examples.append(scored[better][0])
        texts.append((scored[better][0].responses[0], scored[worse][0].responses[0]))
        read.append([scored[better][1][0], scored[worse][1][0]])
    prompts = [example.prompt_key for example in examples]
    known = [references.get(prompt, ()) for prompt in prompts]
    members = len(read[0][0].rewards) if read else 1
    scores = [[one.score for one in both] for both in read]
    rewards = [[one.rewards for one in both] for both in read]
    return Pairs(
        [example.group for example in examples],
        prompts,
        texts,
        [(a in of_prompt, b in of_prompt) for (a, b), of_prompt in zip(texts, known, strict=True)],
        np.array(scores, dtype=float).reshape(-1, 2),
        np.array(rewards, dtype=float).reshape(-1, 2, members),
    )


def _labelled(labelled: Sequence[tuple[Example, list[_Read]]]) -> Labelled:
    return Labelled(
        [example.group for example, _ in labelled],
        [example.responses[0] for example, _ in labelled],
        np.array([read[0].score for _, read in labelled], dtype=float),
        np.array([example.value for example, _ in labelled]),
    )
