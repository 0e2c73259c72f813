"""How a card spells an item: turns, solutions in steps, two responses in one sequence.

From what a caller sends to what the template renders. Which ids come of it: `template`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from assay.errors import InvalidField, TemplateRefused
from assay.items import Contest, Conversation, Ids, Message, Solution, Source, Text, carried, said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.cards import mechanism


@dataclass(frozen=True, slots=True)
class Parts:
    """Texts to be tokenized each by itself: the prompt, then each step and what ends it."""

    prompt: str
    steps: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class FormattedItem:
    """What is to be rendered, and how many steps it must turn out to have (None: any number)."""

    item: Conversation | Parts | Text | Ids
    steps: int | None = None
    is_cuttable: bool = True


def spell(
    source: Source, template: mechanism.Template, steps: mechanism.Steps | None
) -> FormattedItem:
    """Return an item as the card spells it.

    Raises:
        InvalidField: The model takes another form of item.
        TemplateRefused: The conversation is one that the card's strings can't spell.
    """
    match source:
        case Contest():
            return _contest(source, template)
        case Solution():
            if steps is None:
                raise InvalidField(
                    "the model scores whole responses; send 'response' instead of 'steps'",
                    param="steps",
                )
            return _solution(source, steps, template)
        case Conversation() if template.pair is not None:
            raise InvalidField(
                "the model compares two responses and has no score for one; use /compare or "
                "/best-of-n"
            )
        case Conversation() if steps is not None:
            return _solution(_cut_up(source, steps), steps, template)
        case Conversation():
            messages = _with_system(source.messages, template)
            is_whole = messages is source.messages
            return FormattedItem(source if is_whole else replace(source, messages=messages))
    reads_all = isinstance(source, Ids) and source.reads_all
    if steps is not None and steps.form == "separate" and not reads_all:
        raise InvalidField(
            "the model's steps are tokenized one by one", advice="; send 'prompt' and 'steps'"
        )
    return FormattedItem(source)


def write(messages: Sequence[Message], turns: mechanism.Turns) -> str:
    """Return a conversation as fixed strings.

    Raises:
        TemplateRefused: A turn has a role that the strings don't know.
    """
    forms = {"system": turns.system, "user": turns.user, "assistant": turns.assistant}
    written = [turns.begin]
    for message in messages:
        form = forms.get(message["role"])
        if form is None:
            raise TemplateRefused(
                f"the model's template has no turn for the role '{message['role']}'"
            )
        written.append(form.replace("{content}", said(message)))
    return "".join([*written, turns.end])


def _with_system(
    messages: tuple[Message, ...], template: mechanism.Template
) -> tuple[Message, ...]:
    """Apply the card's system policy."""
    has_one = messages[0]["role"] == "system"
    if template.system == "none" and has_one:
        raise TemplateRefused("the model was trained without system turns; leave it out")
    if template.system in ("allow", "none") or has_one:
        return messages
    return ({"role": "system", "content": template.system}, *messages)


def _cut_up(source: Conversation, steps: mechanism.Steps) -> Solution:
    """Return a response sent as one text in steps."""
    if steps.split is None:
        raise InvalidField(
            "the model scores steps",
            advice="; send 'steps' instead of 'response'",
        )
    *prompt, response = source.messages
    for name in carried(response):
        raise unspelt(f"messages[{len(prompt)}].{name}")
    parts = tuple(part for part in said(response).split(steps.split) if part.strip())
    return Solution(tuple(prompt), parts or (said(response),), source.inputs)


def unspelt(field: str) -> InvalidField:
    """Return the refusal of what a card's fixed strings, steps or pairs have no place for."""
    return InvalidField(
        f"the model's template has no place for '{field}'; leave it out", param=field
    )


def _solution(
    source: Solution, card: mechanism.Steps, template: mechanism.Template
) -> FormattedItem:
    if not source.steps:
        raise InvalidField("'steps' is empty; send at least one", param="steps")
    spelt = [_step(card.step, number, step) for number, step in enumerate(source.steps, 1)]
    prompt = _with_system(source.messages, template)
    count = len(spelt)
    match card.form:
        case "joined":
            response = {"role": "assistant", "content": card.between.join(spelt)}
            return FormattedItem(Conversation((*prompt, response), source.inputs), count)
        case "separate":
            question = card.prompt.replace("{prompt}", _only_prompt(source.messages))
            return FormattedItem(
                Parts(question, tuple((step, card.between) for step in spelt)), count
            )
    *before, last = prompt
    first = {**last, "content": f"{said(last)}{card.between}{spelt[0]}"}
    reply = {"role": "assistant", "content": card.reply}
    turns = [first, *({"role": "user", "content": step} for step in spelt[1:])]
    talk = [message for turn in turns for message in (turn, reply)]
    return FormattedItem(Conversation((*before, *talk), source.inputs), count, is_cuttable=False)


def _step(form: str, number: int, step: str) -> str:
    """Return a step as the card spells it; one that comes with its own number has it once."""
    before, _, after = form.replace("{number}", str(number)).partition("{step}")
    label, end = before.strip(), after.strip()
    if "{number}" in form and step.lstrip().startswith(label):
        step = step.lstrip().removeprefix(label).lstrip()
        step = step.rstrip().removesuffix(end).rstrip() if end else step
    return f"{before}{step}{after}"


def _contest(source: Contest, template: mechanism.Template) -> FormattedItem:
    pair = template.pair
    if pair is None:
        raise InvalidField("the model scores one response at a time")
    prompt = write(source.messages, pair.turns) if pair.turns else _only_prompt(source.messages)
    # One pass over the form: a response that holds "{b}" stays as it is.
    pieces = {"{prompt}": prompt, "{a}": source.first, "{b}": source.second}
    text = _filled(pair.text, pieces)
    if pair.through == "nothing":
        return FormattedItem(Text(text), is_cuttable=False)
    turns = _with_system(({"role": "user", "content": text},), template)
    return FormattedItem(Conversation(turns, source.inputs), is_cuttable=False)


def _only_prompt(messages: Sequence[Message]) -> str:
    if len(messages) != 1 or messages[0]["role"] != "user":
        raise TemplateRefused("the model takes a prompt of one user turn")
    return said(messages[0])


def _filled(form: str, pieces: dict[str, str]) -> str:
    """Replace each of the named pieces, wherever it stands, in one pass."""
    return re.sub("|".join(map(re.escape, pieces)), lambda match: pieces[match.group()], form)
