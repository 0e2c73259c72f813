"""The files that trainers are pointed at, loaded and called as those trainers do."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import BaseModel

from assay.client.adapters import connection
from tests.guides.conftest import EXAMPLES, natively, scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.http.processes import Server

PROMPT = "Name a prime number."
CHAT = [{"role": "user", "content": PROMPT}]
RESPONSES = ["Eight.", "Seven is a prime number.", "I like numbers."]
ITEMS = [{"prompt": PROMPT, "response": one} for one in RESPONSES]
TEMPLATED = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
TEXTS = [{"text": f"{TEMPLATED}{one}<|im_end|>"} for one in RESPONSES]
QUESTION = "What is 6 * 7?"
STEPS = [["6 * 7 is 6 + 6 + ... + 6.", "That is 42."], ["It is 40."]]
SOLUTIONS = ["\n\n".join(one) for one in STEPS]
MATH = {"model": "math"}


@pytest.fixture
def load(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Load a file by its path; its connections end with the test."""
    monkeypatch.setenv("ASSAY_URL", server.url)

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location("loaded", EXAMPLES / name)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    connection.close()


def standing_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """Put a module with what a file imports where a package would be that isn't here."""
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name.partition(".")[0], ModuleType(name.partition(".")[0]))
    monkeypatch.setitem(sys.modules, name, module)


def float32(numbers: list[float]) -> list[float]:
    """Return numbers as a tensor holds them."""
    rounded: list[float] = torch.tensor(numbers, dtype=torch.float32).tolist()
    return rounded


async def test_openrlhf_calls_with_one_query(server: Server, load: Callable[[str], Any]) -> None:
    """In a thread; rewards and scores are tensors."""
    reward_func = load("reward_with_openrlhf.py").reward_func

    answers = [
        await asyncio.to_thread(reward_func, [item["text"]], [TEMPLATED], ["7"]) for item in TEXTS
    ]

    assert [one["rewards"].item() for one in answers] == float32(scores(server, TEXTS))
    probable = scores(server, TEXTS, activation="sigmoid")
    assert [one["scores"].item() for one in answers] == float32(probable)
    assert [one["extra_logs"] for one in answers] == [{}, {}, {}]


async def test_slime_calls_with_a_sample_or_a_group(
    server: Server, load: Callable[[str], Any]
) -> None:
    """Templated prompts with their responses; an object with `--reward-key`."""
    custom_rm = load("reward_with_slime.py").custom_rm
    samples = [
        SimpleNamespace(prompt=TEMPLATED, response=f"{one}<|im_end|>", label=None, metadata={})
        for one in RESPONSES
    ]
    args = SimpleNamespace(rm_url=None, reward_key=None, eval_reward_key=None)
    keyed = SimpleNamespace(rm_url=None, reward_key="quality", eval_reward_key=None)
    expected = scores(server, TEXTS)

    assert [await custom_rm(args, one) for one in samples] == expected
    assert await custom_rm(args, samples) == expected
    assert await custom_rm(keyed, samples[0]) == {"quality": expected[0]}


def test_openrlhfs_missing_end_of_turn_changes_the_score(server: Server) -> None:
    """What the pages say of completions that were cut: the text is scored as it stands."""
    cut = [{"text": f"{TEMPLATED}{one}"} for one in RESPONSES]

    assert all(a != b for a, b in zip(scores(server, cut), scores(server, TEXTS), strict=True))


async def test_verl_calls_by_name(server: Server, load: Callable[[str], Any]) -> None:
    """With the prompt in `extra_info`, for one response or a batch."""
    module = load("reward_with_verl.py")
    info = {"prompt": CHAT, "index": 0, "num_turns": 2, "rollout_reward_scores": {}}
    one = {"data_source": "d", "ground_truth": "7", "extra_info": info}
    several = {"data_sources": ["d"] * 3, "ground_truths": ["7"] * 3, "extra_infos": [info] * 3}
    expected = scores(server, ITEMS)

    assert inspect.iscoroutinefunction(module.compute_score)
    found = await asyncio.gather(
        *(module.compute_score(solution_str=response, **one) for response in RESPONSES)
    )
    assert found == expected
    batch = partial(module.compute_scores, solution_strs=RESPONSES, **several)
    assert await asyncio.to_thread(batch) == expected


def test_swift_makes_and_awaits_what_is_registered(
    server: Server, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among its `orms`, under the name that `--reward_funcs` has."""
    orms: dict[str, Any] = {}
    standing_in(monkeypatch, "swift.rewards", orms=orms)
    load("reward_with_swift.py")
    function = orms["assay"](args=SimpleNamespace())
    messages = [[*CHAT, {"role": "assistant", "content": one}] for one in RESPONSES]

    async def rewards() -> list[float | None]:
        found: list[float | None] = await function(RESPONSES, messages=messages, trainer_state=None)
        return found

    assert inspect.iscoroutinefunction(type(function).__call__)
    assert type(function).__name__ == "assay"
    assert asyncio.run(rewards()) == scores(server, ITEMS)


async def test_areal_calls_in_a_process_of_its_own(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by its path, sent there as a pickle, with 15 s to answer."""
    monkeypatch.setenv("ASSAY_URL", server.url)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "reward_with_areal", raising=False)
    reward_fn = importlib.import_module("reward_with_areal").reward_fn
    said = [f"{one}<|im_end|>" for one in RESPONSES]
    loop = asyncio.get_running_loop()

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        await loop.run_in_executor(pool, reward_fn, TEMPLATED, "warm", [1], [2])
        found = [
            await asyncio.wait_for(
                loop.run_in_executor(
                    pool, partial(reward_fn, TEMPLATED, one, [1], [2], messages=CHAT)
                ),
                15,
            )
            for one in said
        ]

    assert found == scores(server, TEXTS)
    assert reward_fn.reward.deadline_s < 15


def test_open_instruct_finds_a_verifier(
    server: Server, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the subclasses of its own class; queries are its joined turns, scores from 0 to 1."""

    class VerifierFunction:
        def __init__(self, name: str, weight: float = 1.0, verifier_config: Any = None) -> None:
            self.name, self.weight, self.verifier_config = name, weight, verifier_config

    standing_in(
        monkeypatch,
        "open_instruct.ground_truth_utils",
        VerifierFunction=VerifierFunction,
        VerificationResult=SimpleNamespace,
    )
    module = load("reward_with_open_instruct.py")
    (found,) = VerifierFunction.__subclasses__()
    verifier = found(None)
    several = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "A prime?\n\nOr two?"},
        {"role": "assistant", "content": "Seven."},
        {"role": "user", "content": "Another."},
    ]
    joined = "\n".join(f"{one['role']}: {one['content']}" for one in several)

    results = [verifier([1], one, "7", f"user: {PROMPT}") for one in RESPONSES]
    bare = verifier([1], RESPONSES[0], "7", PROMPT)
    longer = verifier([1], RESPONSES[0], "7", joined)
    too_long = verifier([1], "no " * 1024, "7", joined)

    assert found is module.Helpful
    assert (verifier.name, verifier.weight) == ("helpful", 1.0)
    expected = scores(server, ITEMS, activation="sigmoid")
    assert [one.score for one in results] == expected
    assert bare.score == expected[0]
    conversation = [{"prompt": several, "response": RESPONSES[0]}]
    assert [longer.score] == scores(server, conversation, activation="sigmoid")
    assert too_long.score == 0.0


async def test_verifiers_calls_by_the_names_it_reads(
    server: Server, load: Callable[[str], Any]
) -> None:
    """A rollout's, a group's, a trace's."""
    module = load("reward_with_verifiers.py")
    turns = [[{"role": "assistant", "content": one}] for one in RESPONSES]
    expected = scores(server, ITEMS)

    assert [await module.helpful(prompt=CHAT, completion=one) for one in turns] == expected
    assert await module.helpful_group(prompts=[CHAT] * 3, completions=turns) == expected
    traces = [SimpleNamespace(messages=CHAT + one) for one in turns]
    assert [await module.helpful_trace(trace=one) for one in traces] == expected
    assert set(inspect.signature(module.helpful).parameters) == {"prompt", "completion"}
    assert set(inspect.signature(module.helpful_trace).parameters) == {"trace"}


async def test_its_hub_scores_a_group_and_partial_solutions(
    server: Server, load: Callable[[str], Any]
) -> None:
    """As best-of-n and beam search ask, in its old and its new shape."""
    module = load("reward_with_its_hub.py")
    conversations = [[*CHAT, {"role": "assistant", "content": one}] for one in RESPONSES]
    expected = scores(server, ITEMS)
    solutions = [{"prompt": QUESTION, "steps": one} for one in STEPS]
    products = scores(server, solutions, **MATH, aggregate="prod")

    assert module.orm.score(PROMPT, RESPONSES) == expected
    assert await module.orm.ascore(conversations) == expected
    assert module.prm.score(QUESTION, SOLUTIONS) == products
    assert await module.prm.ascore(QUESTION, SOLUTIONS) == products
    assert all(0 <= one <= 1 for one in products)


async def test_nemo_gym_verifies_a_rollout(
    server: Server, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its class's method; what it sent comes back with the reward."""

    class Request(BaseModel):
        responses_create_params: dict[str, Any]
        response: dict[str, Any]

    class Response(Request):
        reward: float

    standing_in(
        monkeypatch,
        "nemo_gym.base_resources_server",
        BaseVerifyRequest=Request,
        BaseVerifyResponse=Response,
        SimpleResourcesServer=type("SimpleResourcesServer", (), {}),
    )
    module = load("verify_with_nemo_gym.py")
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "A prime?"}]}
    bodies = [
        Request(
            responses_create_params={"input": CHAT},
            response={
                "output": [
                    reasoning,
                    {
                        "type": "message",
                        "role": "assistant",
                        "content": [{"type": "output_text", "text": one}],
                    },
                ]
            },
        )
        for one in RESPONSES
    ]

    async with module.judge:
        verified = [await module.AssayResourcesServer().verify(body) for body in bodies]

    assert [one.reward for one in verified] == scores(server, ITEMS)
    assert verified[0].response == bodies[0].response


def test_search_and_learn_scores_each_step(server: Server, load: Callable[[str], Any]) -> None:
    """Of each output to each question."""
    prm = load("reward_with_search_and_learn.py").prm
    entries = natively(server, [{"prompt": QUESTION, "steps": one} for one in STEPS], **MATH)
    expected = [entry["steps"] for entry in entries]

    found = prm.score([QUESTION, QUESTION], [SOLUTIONS, SOLUTIONS[:1]])

    assert found == [expected, expected[:1]]
    assert [len(one) for one in found[0]] == [2, 1]
