"""A program of a caller's, which `mypy --strict` takes as it stands; it isn't run."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from assay import AsyncClient, Client, wire
from assay.client.adapters import its_hub, swift, trl, verl
from assay.client.adapters.function import AsyncFunction, Function

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def mappings() -> Iterator[dict[str, str]]:
    yield {"prompt": "Why?", "response": "Because."}


async def pairs() -> AsyncIterator[tuple[str, str]]:
    yield ("Why?", "Because.")


def of_a_thread() -> None:
    turns = [{"role": "user", "content": "Why?"}]
    with Client("http://one", "http://two", api_key="key", patience_s=60, retries=3) as client:
        assert_type(client.score({"prompt": "Why?", "response": "Because."}), wire.ScoreEntry)
        assert_type(client.score(("Why?", "Because.")), wire.ScoreEntry)
        assert_type(client.score(wire.Item(text="Why?")), wire.ScoreEntry)
        assert_type(client.score([("Why?", "Because.")]), list[wire.ScoreEntry])
        rows = [(turns, "Because."), (turns, "So.")]
        assert_type(client.score(rows), list[wire.ScoreEntry])
        lazily = client.score(mappings(), on_error="item", progress=True)
        assert_type(lazily, list[wire.ScoreEntry])
        named = client.score(("Why?", "Because."), targets=["safe", {"target": "helpful"}])
        assert_type(named.rewards, dict[str, wire.Reward] | None)
        request = wire.ScoreRequest(inputs=[wire.Item(text="Why?")])
        assert_type(client.score(request), wire.ScoreAnswer)
        assert_type(client.compare(("Why?", ["a", "b"]), temperature=1.0), wire.CompareEntry)
        assert_type(client.best_of_n([("Why?", ["a", "b"])]), list[wire.BestOfNEntry])
        assert_type(client.models(), wire.ModelList)
        for entry in client.stream(mappings()):
            assert_type(entry.score, float | None)
        client.score(("Why?", "Because."), temprature=1.0)  # type: ignore[call-overload]
        client.compare(("Why?", ["a", "b"]), targets=["safe"])  # type: ignore[call-overload]
        client.score(3)  # type: ignore[call-overload]


async def of_a_loop() -> None:
    async with AsyncClient("http://one", deadline_s=60) as client:
        assert_type(await client.score(("Why?", "Because.")), wire.ScoreEntry)
        assert_type(await client.score(pairs()), list[wire.ScoreEntry])
        async for entry in client.stream(pairs(), model="judge"):
            assert_type(entry, wire.ScoreEntry)


def of_trainers() -> None:
    of_groups = trl.reward("http://one", model="judge", clip=(-1.0, 1.0))
    assert_type(of_groups, Function[list[float | None]])
    assert_type(verl.async_reward("http://one"), AsyncFunction[float])
    assert_type(its_hub.reward(["http://one", "http://two"]), its_hub.OutcomeRewardModel)
    assert_type(swift.reward("http://one", patience_s=60), type[swift.ORM])
    trl.reward("http://one", clipp=(-1.0, 1.0))  # type: ignore[call-arg]
