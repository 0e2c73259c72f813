"""ms-swift: classes for `orms`, to be named in `--reward_funcs`.

In a file for `--external_plugins`:

    from swift.rewards import orms
    from assay.client.adapters import swift

    orms["assay"] = swift.reward("http://localhost:8000")

The column `messages` has the conversation; its turns of the roles `tool_call` and `tool_response`
are calls of tools and their results, and the column `tools` has these. What can't be scored is
None, which ms-swift leaves out.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from assay.client.adapters import items
from assay.client.adapters.reward import Reward

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from assay.client.adapters.reward import Item, Options, Urls


class _Made:
    """What ms-swift makes of a class: it is called with the training's arguments."""

    reward: ClassVar[Reward]

    def __init__(self, args: Any = None, **_: Any) -> None:
        self.args = args

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self).__bases__[0], self.reward, self.args)


class ORM(_Made):
    """A reward among ms-swift's `orms`."""

    def __call__(
        self,
        /,
        completions: Sequence[Any],
        messages: Sequence[Any] | None = None,
        tools: Sequence[Any] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """Return a reward for each completion."""
        inputs = _asked(self.reward, completions, messages, tools)
        return self.reward.rewards(self.reward.ask(inputs))


class AsyncORM(_Made):
    """The same, awaited beside other async rewards."""

    async def __call__(
        self,
        /,
        completions: Sequence[Any],
        messages: Sequence[Any] | None = None,
        tools: Sequence[Any] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """Return a reward for each completion."""
        inputs = _asked(self.reward, completions, messages, tools)
        return self.reward.rewards(await self.reward.aask(inputs))


def reward(url: Urls, **options: Unpack[Options]) -> type[ORM]:
    """Return a class for `orms`; it has the reward's name, which is what ms-swift logs."""
    reward_class: type[ORM] = _class(ORM, Reward.of(url, options))
    return reward_class


def async_reward(url: Urls, **options: Unpack[Options]) -> type[AsyncORM]:
    """Return the same as a class whose instances are async."""
    reward_class: type[AsyncORM] = _class(AsyncORM, Reward.of(url, options))
    return reward_class


def _class(base: Any, reward: Reward) -> Any:
    return type(reward.label, (base,), {"reward": reward, "__module__": __name__})


def _remade(base: Any, reward: Reward, args: Any) -> Any:
    return _class(base, reward)(args)


def _asked(
    reward: Reward,
    completions: Sequence[Any],
    messages: Sequence[Any] | None,
    tools: Sequence[Any] | None,
) -> list[Item]:
    if messages is None:
        raise TypeError("ms-swift hands over the column 'messages'; without it there is no prompt")
    prompts = [_called(_before(conversation)) for conversation in messages]
    parsed_tools = None if tools is None else [_tools(row) for row in tools]
    return items.pairs(reward, prompts, completions, tools=parsed_tools)


def _before(conversation: Sequence[Any]) -> Sequence[Any]:
    """Return a conversation without the completion it ends with."""
    is_answered = bool(conversation) and conversation[-1]["role"] == "assistant"
    return conversation[:-1] if is_answered else conversation


def _called(conversation: Sequence[Any]) -> list[Any]:
    """Return a conversation with calls and results of tools as other frameworks have them."""
    turns: list[Any] = []
    for turn in conversation:
        match turn["role"]:
            case "tool_call" if isinstance(function := _read(turn["content"]), dict):
                if not (turns and turns[-1]["role"] == "assistant"):
                    turns.append({"role": "assistant", "content": None, "tool_calls": []})
                before = turns[-1]
                calls = [*before.get("tool_calls", []), {"type": "function", "function": function}]
                turns[-1] = {**before, "tool_calls": calls}
            case "tool_response":
                turns.append({**turn, "role": "tool"})
            case _:
                turns.append(turn)
    return turns


def _tools(value: Any) -> Any:
    """Return a row's tools."""
    read = _read(value)
    if value and read is None:
        raise ValueError("a row's 'tools' are neither a list nor JSON")
    return read


def _read(value: Any) -> Any:
    """Return what ms-swift has as JSON or as what JSON stands for."""
    if not isinstance(value, str):
        return value
    try:
        read = json.loads(value)
    except ValueError:
        return None
    return [_read(element) for element in read] if isinstance(read, list) else read
