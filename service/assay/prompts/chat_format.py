"""How a model's conversations become text: by fixed strings of the card, or a chat template.

And in whose names: a template may call the roles otherwise. What it leaves out of a conversation,
or has no place for, is refused.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from assay.errors import AssayError, CheckpointError, InvalidField, TemplateRefused, shown
from assay.items import Conversation, Ids, Text, carried
from assay.prompts import probes, prompt_format, roles
from assay.prompts.chat import ChatTemplate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from assay.cards.card import Card
    from assay.items import Source
    from assay.prompts.tokenizer import Tokenizer

_USUAL = (roles.USER, roles.ASSISTANT)
_MOST_SHAPES = 256  # of conversations, by their roles, that are remembered


class ChatFormat:
    """One model's format of conversations. Not thread-safe."""

    def __init__(self, tokenizer: Tokenizer, card: Card, moment: datetime | None = None) -> None:
        """Choose the chat template, if there is one.

        Raises:
            CheckpointError: What the card says of it can't be.
        """
        self._spec = card.template
        self._steps = card.steps
        self._template = ChatTemplate(tokenizer.hf, card.template, moment=moment)
        self._losses: dict[tuple[str, ...], list[int] | None] = {}

    @property
    def exists(self) -> bool:
        """Whether conversations can be spelt at all."""
        return self._spec.turns is not None or self._template.exists

    @property
    def moment(self) -> datetime:
        """What a chat template that writes the date takes for now."""
        return self._template.moment

    @property
    def literals(self) -> set[str]:
        """What a chat template may look for in a conversation."""
        return self._template.literals

    @property
    def has_overrun(self) -> bool:
        """Whether the chat template took too long for a conversation once."""
        return self._template.has_overrun

    @property
    def note(self) -> str | None:
        """What an operator should know of the chat template, in a sentence."""
        self._template.names = self.roles
        return self._template.note

    # --- conversations to text --------------------------------------------------------------

    def apply(self, talks: Sequence[Conversation]) -> Sequence[str | AssayError]:
        """Return each conversation's text, all in one call unless one is refused."""
        if not talks:
            return []
        try:
            return self._applied(talks)
        except Exception as error:  # noqa: BLE001  a template is code that may raise anything
            if len(talks) > 1:
                return [result for talk in talks for result in self.apply([talk])]
            return [error if isinstance(error, AssayError) else self._template.refusal(error)]

    def _applied(self, talks: Sequence[Conversation]) -> list[str]:
        texts = self._write(talks, generation_prompt=self._spec.generation_prompt)
        if self._spec.turns is None:
            for talk, text in zip(talks, texts, strict=True):
                self._template.check_size(talk, text)
        return texts

    def _write(
        self,
        talks: Sequence[Conversation],
        *,
        generation_prompt: bool,
        names: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Put conversations through the card's strings or the chat template, in its names."""
        if self._spec.turns is not None:
            return [prompt_format.write(talk.messages, self._spec.turns) for talk in talks]
        self._template.names = self.roles if names is None else names
        return self._template.apply(talks, generation_prompt=generation_prompt)

    def prompt_alone(self, talk: Conversation, *, generation_prompt: bool) -> str:
        """Return the text of a conversation without its response, nor what ends it.

        Raises:
            TemplateRefused: The template takes no such conversation.
        """
        prompt = replace(talk, messages=talk.messages[:-1])
        if self._spec.turns is not None:
            turns = self._spec.turns.model_copy(update={"end": ""})
            return prompt_format.write(prompt.messages, turns)
        try:
            (text,) = self._write([prompt], generation_prompt=generation_prompt)
        except Exception as error:  # noqa: BLE001  a template is code that may raise anything
            raise self._template.refusal(error) from None
        return text

    # --- whose turns come through, by which names -------------------------------------------

    @cached_property
    def roles(self) -> dict[str, str]:
        """What the chat template calls those of our roles that it calls otherwise.

        By the card, else as the template's own words are plain, where ours lose a turn or are
        refused and these don't.
        """
        if self._spec.roles is not None:
            named = self._spec.roles.model_dump()
            return {ours: theirs for ours, theirs in named.items() if ours != theirs}
        if self._jinja is None or self._lost(_USUAL, {}) == []:
            return {}
        guessed = roles.guess(roles.looked_for(self._jinja))
        return guessed if guessed and self._lost(_USUAL, guessed) == [] else {}

    @cached_property
    def _jinja(self) -> str | None:
        """The chat template that conversations go through; None where they go through none."""
        if self._spec.turns is not None or not self._template.exists:
            return None
        return self._template.source()

    def in_our_names(self, source: Source) -> Source:
        """Return an item whose roles are ours where they are the template's."""
        if isinstance(source, Ids | Text) or not self.roles:
            return source
        ours = {theirs: name for name, theirs in self.roles.items()}
        turns = tuple(
            {**turn, "role": ours.get(turn["role"], turn["role"])} for turn in source.messages
        )
        return replace(source, messages=turns)

    def lost(self, turns: Sequence[str]) -> list[int]:
        """Return which turns of a conversation of these roles the template leaves out."""
        return self._known_lost(tuple(turns)) or []

    def _known_lost(self, turns: tuple[str, ...]) -> list[int] | None:
        if turns not in self._losses:
            if len(self._losses) >= _MOST_SHAPES:
                self._losses.clear()
            self._losses[turns] = self._lost(turns, self.roles)
        return self._losses[turns]

    def _lost(self, turns: Sequence[str], names: Mapping[str, str]) -> list[int] | None:
        """Return which turns don't come through to the text; None where it refuses them."""
        if not self.exists:
            return None
        marked = Conversation(tuple(probes.marked(turns)))
        try:
            (text,) = self._write([marked], generation_prompt=False, names=names)
        except Exception:  # noqa: BLE001  a template is code that may raise anything
            return None
        return probes.missing(text, len(turns))

    # --- what it refuses --------------------------------------------------------------------

    def swallowed(self, parts: Sequence[str]) -> CheckpointError:
        """Say which texts leave no trace, and what to write into a card."""
        left_out = f"leaves out what is said by {roles.listed(dict.fromkeys(parts))}"
        if self._jinja is None:
            return CheckpointError(
                f"the card's template {left_out}; put the placeholder for it into the card's text"
            )
        names = roles.looked_for(self._jinja)
        return CheckpointError(
            f"the chat template {left_out}, so that it would never change a score; the template "
            f"looks for the roles {roles.listed(names)}: say in a card.toml whose is whose, as "
            '[template.roles] with user = "…" and assistant = "…"'
        )

    def misplaced(self, source: Source) -> AssayError | None:
        """Refuse a conversation whose last turn isn't the assistant's, under whatever name."""
        if not isinstance(source, Conversation) or source.messages[-1]["role"] == roles.ASSISTANT:
            return None
        if self._known_lost(tuple(turn["role"] for turn in source.messages)) is None:
            return None  # the template says it better
        theirs = self.roles.get(roles.ASSISTANT)
        return InvalidField(
            "'messages' must end with the assistant turn to score"
            + (f", which the model's template calls '{theirs}'" if theirs else ""),
            param="messages",
        )

    def left_out(self, source: Conversation) -> TemplateRefused | None:
        """Refuse a conversation of which the chat template leaves out a turn."""
        turns = [message["role"] for message in source.messages]
        if not (lost := self.lost(turns)):
            return None
        return TemplateRefused(
            f"the model's chat template leaves out turn {lost[0] + 1} of {len(turns)}, of the role "
            f"'{shown(turns[lost[0]])}', and the score would not be of it; send the conversation "
            "without that turn"
        )

    def check_carried(self, source: Source) -> None:
        """Refuse what a conversation has beside role and content where it wouldn't be rendered.

        Raises:
            InvalidField: With the field's path.
        """
        if isinstance(source, (Text, Ids)):
            return
        inputs = source.inputs.names
        if not inputs and not any(map(carried, source.messages)):
            return
        fields = [
            f"messages[{place}].{name}"
            for place, message in enumerate(source.messages)
            for name in carried(message)
        ]
        pair, steps = self._spec.pair, self._steps
        is_chat = self._spec.turns is None and self._template.exists
        if pair is not None:
            is_chat = is_chat and pair.through == "chat"
        elif steps is not None:
            is_chat = is_chat and steps.form != "separate"
        if not is_chat or (pair is not None and fields):
            raise prompt_format.unspelt((fields or inputs)[0])
        self._template.names = self.roles
        self._template.check(Conversation(source.messages, source.inputs))
