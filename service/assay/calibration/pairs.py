"""The file of labelled pairs: read and refused line by line, divided by prompt.

A line is a pair (`prompt`, `chosen`, `rejected`), a labelled response (`prompt`, `response`,
`label` 0 or 1) or one with a score (`prompt`, `response`, `score`); of one prompt's, the higher
score is the chosen one. Texts may be lists of messages, the last of which is the response. Beside
a pair or a score, `reference` may be the text of a reference answer to the prompt.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from assay.bulk import source
from assay.errors import InvalidField

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FEWEST = 50  # pairs, or labelled responses
FOLDS = 5  # of the half that is fitted on, to choose a method by
MOST = 1e100  # of a score: what is summed and squared stays a number
Kind = Literal["chosen", "label", "score"]
Line = dict[str, Any]
_FIELDS: dict[Kind, tuple[str, ...]] = {
    "chosen": ("chosen", "rejected"),
    "label": ("response", "label"),
    "score": ("response", "score"),
}


@dataclass(frozen=True, slots=True)
class Example:
    """One line: `responses` are the chosen and the rejected one, or the one that has a `value`.

    `group` is what stays on one side of the split: the prompt, with all that lines say of it.
    """

    kind: Kind
    group: str
    prompt: str | list[Line]
    responses: tuple[str, ...]
    value: float = 1.0
    reference: str | None = None

    @property
    def prompt_key(self) -> str:
        """Its prompt as it is compared."""
        return _canonical(self.prompt)

    @property
    def line(self) -> Line:
        """What it is scored as: a comparison, or an item."""
        if self.kind == "chosen":
            chosen, rejected = self.responses
            return {"prompt": self.prompt, "chosen": chosen, "rejected": rejected}
        return {"prompt": self.prompt, "response": self.responses[0]}


def read(path: Path) -> list[Example]:
    """Return the examples of a file, gzipped or not.

    Raises:
        MalformedBody: A line isn't a JSON object, or the file can't be read.
        InvalidField: A line isn't one of the three forms; its number is named.
    """
    return linked([_example(line, number) for number, line in source.lines(path)])


def linked(examples: Sequence[Example]) -> list[Example]:
    """Return examples with one group for all that a prompt or a `group` in their lines links.

    A prompt whose lines say several groups would else be on both sides of the split, and a response
    with it. What is linked has the first of its lines' groups in alphabetical order.
    """
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while (parent := parents.setdefault(name, name)) != name:
            parents[name] = name = parents[parent]
        return name

    for example in examples:
        parents[root(example.group)] = root(f"\0{example.prompt_key}")
    firsts: dict[str, str] = {}
    for example in sorted(examples, key=lambda each: (each.group == each.prompt_key, each.group)):
        firsts.setdefault(root(example.group), example.group)
    return [replace(example, group=firsts[root(example.group)]) for example in examples]


def check_count(count: int, what: str, why: str = "") -> None:
    """Refuse fewer pairs or labelled responses than anything can be fitted to.

    Raises:
        InvalidField: There are fewer.
    """
    if count < FEWEST:
        raise InvalidField(f"there are {count} {what}, and at least {FEWEST} are needed{why}")


def is_held_out(group: str, seed: int) -> bool:
    """Return on which side of the split a prompt is: by its hash and the seed alone, in half."""
    return _digest(group, seed)[0] < 128


def folds(groups: Sequence[str], seed: int) -> list[int]:
    """Return to which of `FOLDS` parts of equally many prompts each one belongs, by its hash."""
    ranked = sorted(set(groups), key=lambda group: _digest(group, seed))
    places = {group: place % FOLDS for place, group in enumerate(ranked)}
    return [places[group] for group in groups]


def _digest(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{group}".encode(errors="surrogatepass")).digest()


def write(examples: Sequence[Example], path: Path) -> None:
    """Write examples as a file that `assay score` reads."""
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(example.line) + "\n")


def _example(line: Line, number: int) -> Example:
    kind = _kind(line, number)
    names = [name for name in _FIELDS[kind] if name not in ("label", "score")]
    responses, turns = zip(*(_response(line, name, number) for name in names), strict=True)
    if kind == "chosen" and responses[0] == responses[1]:
        raise InvalidField(
            f"line {number}: 'chosen' and 'rejected' are equal, which says nothing; leave it out"
        )
    prompt = _prompt(line, turns, number)
    group = line.get("group")
    if group is not None and not isinstance(group, str):
        raise InvalidField(f"line {number}: 'group' is a text")
    return Example(
        kind,
        _canonical(prompt) if group is None else group,
        prompt,
        responses,
        1.0 if kind == "chosen" else _value(line, kind, number),
        None if line.get("reference") is None else _response(line, "reference", number)[0],
    )


def _kind(line: Line, number: int) -> Kind:
    """Return which form a line has, by the fields that only this form has."""
    marks = {"chosen": "chosen", "rejected": "chosen", "label": "label", "score": "score"}
    kinds = sorted({kind for name, kind in marks.items() if line.get(name) is not None})
    if len(kinds) > 1:
        raise InvalidField(
            f"line {number} has '{kinds[0]}' and '{kinds[1]}'; a line is one pair, or one "
            "response with a label or a score"
        )
    if not kinds:
        raise InvalidField(
            f"line {number} has no label: give 'chosen' with 'rejected', or 'response' with "
            "'label' or 'score'"
        )
    kind: Kind = kinds[0]  # type: ignore[assignment]
    missing = [name for name in _FIELDS[kind] if line.get(name) is None]
    if missing:
        raise InvalidField(f"line {number}: '{missing[0]}' is missing")
    return kind


def _response(line: Line, name: str, number: int) -> tuple[str, list[Line]]:
    """Return a response's text, and the turns before it where it came as messages."""
    value = line[name]
    turns: list[Line] = []
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        *turns, last = value
        value = last.get("content")
    if not isinstance(value, str) or not value.strip():
        raise InvalidField(
            f"line {number}: '{name}' is a text, or a list of messages that ends with the response"
        )
    return value, turns


def _prompt(line: Line, turns: Sequence[list[Line]], number: int) -> str | list[Line]:
    prompt: str | list[Line] | None = line.get("prompt")
    given = [head for head in turns if head]
    if prompt is None and not given:
        raise InvalidField(f"line {number}: 'prompt' is missing")
    if prompt is not None and not isinstance(prompt, str | list):
        raise InvalidField(f"line {number}: 'prompt' is a text or a list of messages")
    prompts = [*([] if prompt is None else [prompt]), *given]
    if len({_canonical(one) for one in prompts}) > 1 or (
        prompt is None and len(given) < len(turns)
    ):
        raise InvalidField(f"line {number}: both responses answer one prompt, and these don't")
    return prompts[0]


def _value(line: Line, kind: Kind, number: int) -> float:
    value = line[kind]
    if kind == "label":
        if value not in (0, 1) or not isinstance(value, int | float):
            raise InvalidField(f"line {number}: 'label' is 0 or 1")
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST:
        raise InvalidField(f"line {number}: 'score' is a number, at most {MOST:g}")
    return float(value)


def _canonical(prompt: str | list[Line]) -> str:
    """Return a prompt as it is compared: a text is one turn of the user."""
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return json.dumps(turns, sort_keys=True)


def scored_pairs(examples: Sequence[Example]) -> Iterator[tuple[int, int]]:
    """Yield (better, worse), places of responses to one prompt whose scores differ."""
    by_prompt: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        by_prompt.setdefault(example.prompt_key, []).append(place)
    for places in by_prompt.values():
        for first, second in combinations(places, 2):
            a, b = examples[first], examples[second]
            if a.value != b.value and a.responses != b.responses:
                yield (first, second) if a.value > b.value else (second, first)
