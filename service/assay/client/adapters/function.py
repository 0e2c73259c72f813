"""Rewards as the functions that frameworks look for: named, picklable, known to be async.

Frameworks ask in different ways. Some read `__name__`, and unwrap a `functools.partial` to do so;
some ask `inspect.iscoroutinefunction` of the object, which sees no async `__call__` unless the
object is like a function; some read the signature for the arguments to hand over.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import CodeType

    from assay.client.adapters.reward import Reward

ResultT = TypeVar("ResultT")


class _Like(Generic[ResultT]):
    """What a function has: a name, a signature, and the flags of its code."""

    __defaults__ = None
    __kwdefaults__ = None

    def __init__(self, function: Callable[..., Any], reward: Reward) -> None:
        self.function = function
        self.reward = reward
        self.__name__ = self.__qualname__ = reward.label
        self.__annotations__: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__name__} at {', '.join(self.reward.url)}>"

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(functools.partial(self.function, self.reward))

    @property
    def __code__(self) -> CodeType:
        code: CodeType = type(self).__call__.__code__
        return code


class Function(_Like[ResultT]):
    """A function whose first argument, the reward, is given."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> ResultT:
        """Call it."""
        result: ResultT = self.function(self.reward, *args, **kwargs)
        return result


class AsyncFunction(_Like[ResultT]):
    """The same of an async function."""

    async def __call__(self, /, *args: Any, **kwargs: Any) -> ResultT:
        """Await it."""
        awaitable: Awaitable[ResultT] = self.function(self.reward, *args, **kwargs)
        return await awaitable
