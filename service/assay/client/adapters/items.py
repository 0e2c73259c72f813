"""What frameworks hand over, as native items: prompts and responses, strings or messages.

Of a message its role, text and name count. Tool calls and images can't be rendered: they are sent
along, so that the item is refused rather than scored without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from assay.client.adapters.reward import Item, Reward


def pair(reward: Reward, prompt: Any, response: Any) -> Item:
    """Return a prompt and a response, each a string or messages, as one item."""
    if not isinstance(response, str):
        before = [spoken("user", prompt)] if isinstance(prompt, str) else turns(prompt)
        return {"messages": [*before, *turns(response)]}
    if isinstance(prompt, str) and reward.verbatim:
        return {"text": prompt + response}
    return {
        "prompt": prompt if isinstance(prompt, str) else turns(prompt),
        "response": _unended(response, reward.turn_end),
    }


def pairs(reward: Reward, prompts: Iterable[Any], responses: Iterable[Any]) -> list[Item]:
    """Return an item for each prompt with its response."""
    return [pair(reward, *both) for both in zip(prompts, responses, strict=True)]


def solution(prompt: Any, response: str, separator: str | None) -> Item:
    """Return a prompt and a response in steps; without a separator it is one step."""
    steps = [response] if separator is None else response.split(separator)
    return {
        "prompt": prompt if isinstance(prompt, str) else turns(prompt),
        "steps": [step for step in steps if step.strip()] or [response],
    }


def turns(messages: Iterable[Any]) -> list[dict[str, Any]]:
    """Return messages, mappings or objects, as the wire has them."""
    return [_turn(message) for message in messages]


def spoken(role: str, content: str) -> dict[str, Any]:
    """Return one turn."""
    return {"role": role, "content": content}


def _turn(message: Any) -> dict[str, Any]:
    also = {name: found for name in ("name", "tool_calls") if (found := _field(message, name))}
    return {
        "role": _field(message, "role"),
        "content": _text(_field(message, "content")),
        **also,
    }


def _field(message: Any, name: str) -> Any:
    return message.get(name) if isinstance(message, Mapping) else getattr(message, name, None)


def _text(content: Any) -> Any:
    """Return a content's text: of a list of parts, if all are text, theirs."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = [text for part in content if isinstance(text := _field(part, "text"), str)]
    return "".join(texts) if len(texts) == len(content) else content


def _unended(response: str, end: str) -> str:
    said = response.rstrip()
    return said.removesuffix(end) if end and said.endswith(end) else response
