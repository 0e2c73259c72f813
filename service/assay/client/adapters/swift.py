"""ms-swift: classes for `orms`, to be named in `--reward_funcs`.

In a file for `--external_plugins`:

    from swift.rewards import orms
    from assay.client.adapters import swift

    orms["assay"] = swift.reward("http://localhost:8000")

The column `messages` has the conversation. What can't be scored is None, which ms-swift leaves out.
"""

from __future__ import annotations

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
        self, /, completions: Sequence[Any], messages: Sequence[Any] | None = None, **_: Any
    ) -> list[float | None]:
        """Return a reward for each completion."""
        asked = _asked(self.reward, completions, messages)
        return self.reward.rewards(self.reward.ask(asked))


class AsyncORM(_Made):
    """The same, awaited beside other async rewards."""

    async def __call__(
        self, /, completions: Sequence[Any], messages: Sequence[Any] | None = None, **_: Any
    ) -> list[float | None]:
        """Return a reward for each completion."""
        asked = _asked(self.reward, completions, messages)
        return self.reward.rewards(await self.reward.aask(asked))


def reward(url: Urls, **options: Unpack[Options]) -> type[ORM]:
    """Return a class for `orms`; it has the reward's name, which is what ms-swift logs."""
    made: type[ORM] = _class(ORM, Reward.of(url, options))
    return made


def async_reward(url: Urls, **options: Unpack[Options]) -> type[AsyncORM]:
    """Return the same as a class whose instances are async."""
    made: type[AsyncORM] = _class(AsyncORM, Reward.of(url, options))
    return made


def _class(base: Any, reward: Reward) -> Any:
    return type(reward.label, (base,), {"reward": reward, "__module__": __name__})


def _remade(base: Any, reward: Reward, args: Any) -> Any:
    return _class(base, reward)(args)


def _asked(
    reward: Reward, completions: Sequence[Any], messages: Sequence[Any] | None
) -> list[Item]:
    if messages is None:
        raise TypeError("ms-swift hands over the column 'messages'; without it there is no prompt")
    prompts = [_before(one) for one in messages]
    return items.pairs(reward, prompts, completions)


def _before(conversation: Sequence[Any]) -> Sequence[Any]:
    """Return a conversation without the completion it ends with."""
    is_answered = bool(conversation) and conversation[-1]["role"] == "assistant"
    return conversation[:-1] if is_answered else conversation
