"""The chat template: the card's or the checkpoint's own, and what of a conversation it renders.

Called through transformers' `apply_chat_template`, so that an item reads as its model was trained.
What a template has no place for is refused by its name: a template that passes over calls of tools
gives a score of another conversation. A template is code of the checkpoint's: whatever it raises
is its refusal of that one conversation.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.defaults

from assay.errors import CheckpointError, InvalidField, TemplateRefused
from assay.items import NO_INPUTS, Conversation, TemplateInputs, carried, characters, said
from assay.prompts import jinja_source, sandbox, today
from assay.prompts.time_limit import Overrun, TimeLimit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from assay.cards.mechanism import Template as Spec
    from assay.items import Message

_REASONING = ("reasoning_content", "reasoning", "thinking")  # which transformers takes for one
_CALL = {"name": "look_up", "arguments": {"word": "seven"}}
_CALLS = [{"type": "function", "id": "call12345", "function": _CALL}]  # Mistral's ids have 9 signs
_SAMPLES: dict[str, Any] = {
    "name": "somebody",
    "tool_calls": _CALLS,
    "tool_call_id": "call12345",
    "function_call": _CALL,
    **dict.fromkeys(_REASONING, "Because it is."),
}
_PARAMETERS = {
    "type": "object",
    "properties": {"word": {"type": "string", "description": "Any word."}},
    "required": ["word"],
}
_SAMPLE_INPUTS = {
    "tools": TemplateInputs(
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "look_up",
                    "description": "Look a word up.",
                    "parameters": _PARAMETERS,
                },
            }
        ]
    ),
    "documents": TemplateInputs(documents=[{"title": "Primes", "text": "Seven is a prime."}]),
}
_USER: Message = {"role": "user", "content": "Is seven a prime?"}
_ASSISTANT: Message = {"role": "assistant", "content": "It is."}
_TALKS: dict[str, list[list[Message]]] = {
    "user": [[_USER, _ASSISTANT]],
    "assistant": [[_USER, _ASSISTANT], [_USER, {"role": "assistant"}]],
    "system": [[{"role": "system", "content": "Be kind."}, _USER, _ASSISTANT]],
    "tool": [
        [
            _USER,
            {"role": "assistant", "tool_calls": _CALLS},
            {"role": "tool", "content": "A prime."},
            _ASSISTANT,
        ]
    ],
}
_MARKS = ("QmarkoneQ", "QmarktwoQ")
# Jinja's and transformers' own, which a variable of that name would hide.
_GLOBALS = {*jinja2.defaults.DEFAULT_NAMESPACE, "raise_exception", "strftime_now"}
_LIMIT = TimeLimit(2.0)  # of a round that takes some milliseconds
_A_WORD = re.compile(r"\w\w")  # less than that says nothing
_ALWAYS_TAKEN = 1 << 20  # characters of the text that a template makes of an item
_MOST_GROWTH = 16  # times what the item has, beyond these


sandbox.tighten()


class ChatTemplate:
    """A tokenizer's chat template as a card chooses it. Not thread-safe."""

    def __init__(
        self,
        tokenizer: Any,
        spec: Spec,
        limit: TimeLimit | None = None,
        moment: datetime | None = None,
    ) -> None:
        """Choose the template; `moment` is what it takes for now where the card has no date.

        Raises:
            CheckpointError: There are several, none is the default, and the card doesn't choose;
                or what the card says of it can't be.
        """
        self._tokenizer = tokenizer
        self._spec = spec
        self._limit = limit or _LIMIT
        by_the_card = None if spec.date is None else today.moment(spec.date)
        self.moment = by_the_card or moment or today.moment(None)
        self.has_overrun = False  # it took too long once
        self.names: Mapping[str, str] = {}  # the template's, of the roles it calls otherwise
        self._renders: dict[tuple[str, str, bool], bool | None] = {}
        self._takes_parts: dict[tuple[str, bool], bool] = {}
        self._variables: dict[str, frozenset[str] | None] = {}
        chat_template = tokenizer.chat_template
        self._named = chat_template if isinstance(chat_template, dict) else {}
        if spec.chat is None and spec.turns is None:
            self._check_choice()
        for name in spec.chat_template_kwargs:
            if name in self._reserved:
                raise CheckpointError(
                    f"template.chat_template_kwargs.{name}: that is no variable of a template's own"
                )

    @property
    def exists(self) -> bool:
        """Whether there is a template at all."""
        return bool(self._spec.chat or self._tokenizer.chat_template)

    def source(self, *, with_tools: bool = False) -> str:
        """Return the template that holds for conversations with or without `tools`."""
        tools: list[Any] | None = [] if with_tools else None
        source: str = self._tokenizer.get_chat_template(self._choice, tools)
        return source

    def apply(self, talks: Sequence[Conversation], *, generation_prompt: bool) -> list[str]:
        """Return the text of each conversation; whatever the template raises goes through."""
        if len(talks) == 1:
            return self._applied(talks, generation_prompt=generation_prompt)
        texts: list[str] = []
        for _, group in groupby(talks, key=lambda talk: id(talk.inputs)):
            texts += self._applied(list(group), generation_prompt=generation_prompt)
        return texts

    def refusal(self, error: Exception) -> TemplateRefused:
        """Repeat the template's words only where they stand in it: others may quote the prompt."""
        if isinstance(error, Overrun):
            return TemplateRefused("the model's chat template takes too long for the conversation")
        if not isinstance(error, jinja2.TemplateError):
            return TemplateRefused(
                f"the model's chat template fails on the conversation ({type(error).__name__})"
            )
        said = self._own_words(str(error)) or type(error).__name__
        return TemplateRefused(f"the model's chat template refuses the conversation: {said}")

    def _own_words(self, words: str) -> str:
        """Return what of an error stands in a template, the rest as dots: it may be the prompt."""
        if any(words in source for source in self._sources):
            return words
        refusals = (texts for source in self._sources for texts in jinja_source.refusals(source))
        said = max((_quoted(words, texts) for texts in refusals), key=len, default="")
        return said if _A_WORD.search(said) else ""

    @property
    def _sources(self) -> list[str]:
        """All templates that may be applied."""
        if self._spec.chat or self._named:
            return [self._spec.chat or "", *self._named.values()]
        return [self._tokenizer.chat_template or ""]

    @property
    def literals(self) -> set[str]:
        """The texts that the templates have in quotes: what they may look for in a conversation."""
        return {text for source in self._sources for text in jinja_source.literals(source)}

    def check_size(self, talk: Conversation, text: str) -> None:
        """Refuse a text that has grown beyond measure: to tokenize it would hold up everybody.

        Raises:
            TemplateRefused: It has.
        """
        if len(text) <= _ALWAYS_TAKEN:
            return
        length = characters(talk)
        if len(text) > _MOST_GROWTH * length + _ALWAYS_TAKEN:
            raise TemplateRefused(
                f"the model's chat template makes {len(text)} characters of an item of {length}"
            )

    # --- what it renders --------------------------------------------------------------------

    def check(self, talk: Conversation) -> None:
        """Refuse a conversation that has what the template doesn't render.

        Raises:
            InvalidField: With the field's path, such as 'messages[2].tool_calls' or 'tools'.
        """
        self._check_inputs(talk)
        seen: set[tuple[str, str]] = set()
        for place, message in enumerate(talk.messages):
            for name in carried(message):
                kind = (message["role"], name)
                if kind in seen:
                    continue
                seen.add(kind)
                if not self._has_place_for(talk, *kind):
                    raise _unrendered(f"messages[{place}].{name}")

    def _check_inputs(self, talk: Conversation) -> None:
        inputs = talk.inputs
        with_tools = inputs.tools is not None
        for name in inputs.variables or {}:
            self._check_variable(name, with_tools=with_tools)
        for name, value in (("tools", inputs.tools), ("documents", inputs.documents)):
            if value and not self._reads_inputs(talk, name, with_tools=with_tools):
                raise _unrendered(name)

    def _check_variable(self, name: str, *, with_tools: bool) -> None:
        field = f"chat_template_kwargs.{name}"
        if name in self._reserved:
            raise InvalidField(
                f"'{field}' can't be set: it is no variable of a template's own", param=field
            )
        variables = self.variables(with_tools=with_tools)
        if variables is not None and name not in variables:
            keys = ", ".join(sorted(variables - self._reserved)) or "none"
            raise InvalidField(
                f"the model's chat template doesn't read '{field}'; leave it out (it reads {keys})",
                param=field,
            )

    @cached_property
    def _reserved(self) -> frozenset[str]:
        """What a request or a card may not set: arguments, and what stands for a token."""
        arguments = inspect.signature(self._tokenizer.apply_chat_template).parameters
        tokens = self._tokenizer.special_tokens_map
        internal = {"self", "messages", "conversations", "compiled_template"}
        return frozenset({*arguments, *tokens, *_GLOBALS, *internal})

    def variables(self, *, with_tools: bool = False) -> frozenset[str] | None:
        """Return the names that a template looks up, or None where it can't be read."""
        source = self.source(with_tools=with_tools)
        if source not in self._variables:
            self._variables[source] = jinja_source.variables(source)
        return self._variables[source]

    def _reads_inputs(self, talk: Conversation, name: str, *, with_tools: bool) -> bool:
        variables = self.variables(with_tools=with_tools)
        if variables is not None and name not in variables:
            return False
        key = ("", name, with_tools)
        if key not in self._renders:
            sample = Conversation((_USER, _ASSISTANT), _SAMPLE_INPUTS[name])
            self._renders[key] = self._differ(sample, replace(sample, inputs=NO_INPUTS))
        without = replace(talk, inputs=replace(talk.inputs, **{name: None}))
        return self._renders[key] or self._comes_through(talk, without, self._renders[key])

    def _has_place_for(self, talk: Conversation, role: str, name: str) -> bool:
        """Tell whether a field comes through: in a sample, else in this conversation."""
        with_tools = talk.inputs.tools is not None
        shown = self._shows(role, name, with_tools=with_tools)
        if shown:
            return True
        is_link = name == "tool_call_id" or (name == "name" and role == "tool")
        if is_link and self._shows("assistant", "tool_calls", with_tools=with_tools):
            return True  # such templates tell which call is answered by the order of turns
        return self._comes_through(talk, _without(talk, role, name), shown)

    def _comes_through(self, talk: Conversation, other: Conversation, shown: bool | None) -> bool:
        """Tell whether a field does, by a conversation with it and without, else by a sample."""
        differ = self._differ(talk, other)
        return shown is not False if differ is None else differ

    def _shows(self, role: str, name: str, *, with_tools: bool) -> bool | None:
        """Tell whether samples differ by a field; None where they say nothing."""
        key = (role, name, with_tools)
        if key not in self._renders:
            inputs = _SAMPLE_INPUTS["tools"] if with_tools else NO_INPUTS
            differences = {
                self._differ(sample, _without(sample, role, name))
                for sample in _samples(role, name, inputs)
            }
            self._renders[key] = (
                True if True in differences else False if False in differences else None
            )
        return self._renders[key]

    def _differ(self, talk: Conversation, other: Conversation) -> bool | None:
        """Tell whether two conversations read differently; None where both are refused."""
        text, bare = self._attempt(talk), self._attempt(other)
        if text is None:
            return None if bare is None else False
        return text != bare

    def _attempt(self, talk: Conversation, **variables: str) -> str | None:
        inputs = replace(talk.inputs, variables={**(talk.inputs.variables or {}), **variables})
        try:
            (text,) = self.apply(
                [replace(talk, inputs=inputs)], generation_prompt=self._spec.generation_prompt
            )
        except Exception:  # noqa: BLE001  a template may raise anything
            return None
        return text

    @property
    def note(self) -> str | None:
        """What an operator should know of the template."""
        if not self.exists or self._spec.turns is not None or self._spec.date is not None:
            return None
        if not self._writes_date():
            return None
        return (
            f"the chat template writes today's date: the day of the start, {self.moment:%Y-%m-%d}, "
            "so that another start on another day gives other scores under the same revision; set "
            'date = "2024-07-26" under [template] in its card, with the date that it was trained '
            "with"
        )

    def _writes_date(self) -> bool:
        """Tell whether the clock is asked in a sample, with tools or without."""
        for inputs in (NO_INPUTS, _SAMPLE_INPUTS["tools"]):
            variables = self.variables(with_tools=inputs.tools is not None)
            if variables is not None and "strftime_now" not in variables:
                continue
            sample = Conversation((_USER, _ASSISTANT), inputs)
            text = self._attempt(sample)
            # A text in place of the function: to call it is an error, to pass it by is none.
            if text is not None and self._attempt(sample, strftime_now="") != text:
                return True
        return False

    # --- content in parts -------------------------------------------------------------------

    def _messages(self, talk: Conversation) -> list[Message]:
        """Return the turns in the template's names, their parts of text as it takes them."""
        with_tools = talk.inputs.tools is not None
        return [
            self._renamed(
                message
                if isinstance(message.get("content", ""), str)
                or self._goes_through_parts(message["role"], with_tools=with_tools)
                else {**message, "content": said(message)}
            )
            for message in talk.messages
        ]

    def _renamed(self, message: Message) -> Message:
        role = message["role"]
        return {**message, "role": self.names[role]} if role in self.names else message

    def _goes_through_parts(self, role: str, *, with_tools: bool) -> bool:
        """Tell whether a template goes through parts of content, and loses none of them."""
        key = (role, with_tools)
        if key not in self._takes_parts:
            self._takes_parts[key] = False  # for the sample's own sake
            self._takes_parts[key] = self._takes(role, with_tools=with_tools)
        return self._takes_parts[key]

    def _takes(self, role: str, *, with_tools: bool) -> bool:
        parts = [{"type": "text", "text": mark} for mark in _MARKS]
        turn = {"role": role, "content": parts}
        talk = {"system": [turn, _USER, _ASSISTANT], "user": [turn, _ASSISTANT]}.get(
            role, [_USER, turn]
        )
        try:
            text: str = self._call(
                [*map(self._renamed, talk)],
                tools=[] if with_tools else None,
                **self._spec.chat_template_kwargs,
            )
        except Exception:  # noqa: BLE001
            return False
        return all(mark in text for mark in _MARKS) and "'text'" not in text

    # --- calling it -------------------------------------------------------------------------

    @property
    def _choice(self) -> str | None:
        return self._spec.chat or self._spec.chat_name

    def _check_choice(self) -> None:
        name, names = self._spec.chat_name, ", ".join(sorted(self._named))
        if name is not None and name not in self._named:
            raise CheckpointError(
                f"template.chat_name: the tokenizer has no chat template '{name}'; it has "
                f"{names or 'one without a name, or none'}"
            )
        if name is None and self._named and "default" not in self._named:
            raise CheckpointError(
                f"the tokenizer has several chat templates and no default ({names}): choose one in "
                f'card.toml, with chat_name = "{min(self._named)}" under [template]'
            )

    def _applied(self, talks: Sequence[Conversation], *, generation_prompt: bool) -> list[str]:
        """Put conversations with the same inputs through the template in one call."""
        inputs = talks[0].inputs
        messages = [self._messages(talk) for talk in talks]
        texts: list[str] = self._call(
            messages,
            tools=inputs.tools,
            documents=inputs.documents,
            add_generation_prompt=generation_prompt,
            **{**self._spec.chat_template_kwargs, **(inputs.variables or {})},
        )
        return texts

    def _call(self, messages: list[Any], **inputs: Any) -> Any:
        def call() -> Any:
            today.hold(self.source(with_tools=inputs.get("tools") is not None), self.moment)
            return self._tokenizer.apply_chat_template(
                messages, chat_template=self._choice, tokenize=False, **inputs
            )

        try:
            return self._limit.call(call)
        except Overrun:
            self.has_overrun = True
            raise


def _quoted(words: str, texts: Sequence[str]) -> str:
    """Return those of a sentence's words that are `texts`, with dots between; "" if one isn't."""
    said, at = "", 0
    for text in texts:
        place = words.find(text, at)
        if place < 0:
            return ""
        said += ("…" if place > at else "") + text
        at = place + len(text)
    return said + ("…" if said and at < len(words) else "")


def _samples(role: str, name: str, inputs: TemplateInputs) -> Iterator[Conversation]:
    """Yield conversations in which a turn of that role has that field."""
    if name not in _SAMPLES:
        return
    for turns in _TALKS.get(role, ()):
        filled = (
            {**turn, name: _SAMPLES[name]}
            if turn["role"] == role and "tool_calls" not in turn
            else turn
            for turn in turns
        )
        yield Conversation(tuple(filled), inputs)


def _without(talk: Conversation, role: str, name: str) -> Conversation:
    """Return a conversation in which no turn of that role has that field."""
    names = _REASONING if name in _REASONING else (name,)
    turns = (
        {key: value for key, value in turn.items() if turn["role"] != role or key not in names}
        for turn in talk.messages
    )
    return replace(talk, messages=tuple(turns))


def _unrendered(field: str) -> InvalidField:
    return InvalidField(
        f"the model's chat template doesn't render '{field}'; leave it out", param=field
    )
