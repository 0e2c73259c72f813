import asyncio
import gc
import json
import warnings

import httpx
import pytest

from assay import AsyncClient, errors, wire
from tests.client.judge import Judge, items, served

ENVELOPE = {
    "id": "score-1",
    "created": 0,
    "model": "judge",
    "revision": "0123456789ab",
    "usage": {"tokens": 3, "computed_tokens": 3, "shared_tokens": 0},
    "timing_ms": {"tokenize": 1.0, "queue": 2.0, "compute": 3.0, "total": 6.0},
}
SCORED = {"index": 0, "score": 1.5, "uncertainty": None, "n_tokens": 3, "truncated": False}
REQUEST = wire.ScoreRequest(inputs=[wire.Item(text="Hi")])


class Server:
    """Answers in the given order, the last answer again and again, and keeps what it was asked."""

    def __init__(self, *answers):
        self.requests = []
        self._answers = list(answers)

    def __call__(self, request):
        self.requests.append(request)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def client(self, **options):
        return AsyncClient("http://judge.test", transport=httpx.MockTransport(self), **options)


def scored(data=(SCORED,)):
    """Return a whole answer of `POST /score`."""
    return httpx.Response(200, json={**ENVELOPE, "object": "score.list", "data": list(data)})


def failed(code, status, *, headers=None, **fields):
    """Return a native error."""
    error = {"code": code, "message": f"about {code}", "retryable": False, **fields}
    body = {"error": error, "request_id": "request-1"}
    return httpx.Response(status, json=body, headers=headers)


async def refusal(answer, kind=errors.AssayError):
    """Ask for a score; return the error that is raised."""
    async with Server(answer).client(retries=0) as client:
        with pytest.raises(kind) as error:
            await client.score(REQUEST)
    return error.value


async def test_scores_are_parsed():
    """`score` posts the request and returns the typed answer."""
    server = Server(scored())
    async with server.client() as client:
        answer = await client.score(REQUEST)
    assert answer.data == [wire.ScoreEntry(index=0, score=1.5, n_tokens=3, truncated=False)]
    assert (answer.model, answer.usage.tokens, answer.timing_ms.total) == ("judge", 3, 6.0)
    assert [(one.method, one.url.path) for one in server.requests] == [("POST", "/score")]


async def test_comparisons_are_parsed():
    """`compare` posts to its route and returns the typed answer."""
    entry = {"index": 0, "scores": [1.0, 0.0], "margin": 1.0, "winner": 0}
    body = {**ENVELOPE, "object": "compare.list", "data": [entry]}
    server = Server(httpx.Response(200, json=body))
    async with server.client() as client:
        answer = await client.compare(wire.CompareRequest(prompt="Hi", chosen="a", rejected="b"))
    assert answer.data == [wire.CompareEntry(index=0, scores=[1.0, 0.0], margin=1.0, winner=0)]
    assert server.requests[0].url.path == "/compare"


async def test_the_best_is_parsed():
    """`best_of_n` posts to its route; sizes come back as numbers, not as JSON's strings."""
    entry = {"index": 0, "n": 2, "expected_best": {"1": 0.5, "2": 1.0}}
    body = {**ENVELOPE, "object": "best_of_n.list", "data": [entry]}
    server = Server(httpx.Response(200, json=body))
    async with server.client() as client:
        answer = await client.best_of_n(wire.BestOfNRequest(prompt="Hi", responses=["a", "b"]))
    assert answer.data[0].expected_best == {1: 0.5, 2: 1.0}
    assert server.requests[0].url.path == "/best-of-n"


async def test_the_models_are_parsed():
    """`models` reads what is served."""
    entry = {"id": "judge", "created": 0, "kind": "model", "state": "ready", "default": True}
    server = Server(httpx.Response(200, json={"object": "list", "data": [entry]}))
    async with server.client() as client:
        served = await client.models()
    assert [(one.id, one.state) for one in served.data] == [("judge", "ready")]
    assert [(one.method, one.url.path) for one in server.requests] == [("GET", "/models")]


async def test_only_what_was_set_is_sent():
    """Defaults stay the server's to choose."""
    server = Server(scored())
    async with server.client() as client:
        await client.score(REQUEST)
    assert json.loads(server.requests[0].content) == {"inputs": [{"text": "Hi"}]}


async def test_fields_the_client_does_not_know_are_ignored():
    """A newer server may say more."""
    async with Server(scored([{**SCORED, "mood": "good"}])).client() as client:
        answer = await client.score(REQUEST)
    assert answer.data[0].score == 1.5


@pytest.mark.parametrize(("key", "header"), [("secret", "Bearer secret"), (None, None)])
async def test_the_key_goes_with_every_request(key, header):
    """An API key is sent as a bearer token; without one nothing is."""
    server = Server(scored())
    async with server.client(api_key=key) as client:
        await client.score(REQUEST)
    assert server.requests[0].headers.get("Authorization") == header


@pytest.mark.parametrize("key", ["schlüssel", "secret\n"])
def test_a_key_that_no_header_can_have_is_refused(key):
    """At once, with a sentence that doesn't show it."""
    with pytest.raises(errors.InvalidField, match="API key") as error:
        AsyncClient("http://judge.test", api_key=key)
    assert error.value.param == "api_key"
    assert key not in str(error.value)


@pytest.mark.parametrize(
    "kind",
    [
        errors.MalformedBody,
        errors.Unauthorized,
        errors.UnknownTarget,
        errors.BodyTooLarge,
        errors.InvalidField,
        errors.ItemTooLong,
        errors.DeadlineExceeded,
        errors.NonFiniteScore,
        errors.ForwardFailed,
        errors.InternalError,
    ],
)
async def test_an_error_is_raised_as_the_servers_class(kind):
    """The code decides the class; message and field come along."""
    error = await refusal(failed(kind.code, kind.status, param="inputs[0]"), kind)
    assert (type(error), error.message, error.param) == (kind, f"about {kind.code}", "inputs[0]")


async def test_a_code_the_client_does_not_know_is_the_services():
    """A newer server's error still is an AssayError."""
    error = await refusal(failed("brand_new", 500))
    assert (type(error), error.message) == (errors.ServiceError, "about brand_new")


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(502, text="<html>Bad gateway</html>"), httpx.Response(404, json={"a": 1})],
)
async def test_an_answer_of_another_shape_says_to_check_the_url(answer):
    """A proxy or another service answered."""
    error = await refusal(answer, errors.ServiceError)
    assert error.message == (
        f"the server answered {answer.status_code}, and not in Assay's shape; check the URL"
    )


@pytest.mark.parametrize("code", ["overloaded", "draining", "not_ready"])
async def test_a_503_is_asked_again_as_told(code):
    """A request that wasn't admitted is sent again, unchanged, after Retry-After."""
    server = Server(failed(code, 503, headers={"Retry-After": "0"}), scored())
    async with server.client() as client:
        answer = await client.score(REQUEST)
    assert answer.data[0].score == 1.5
    first, second = server.requests
    assert (second.url, second.content) == (first.url, first.content)


async def test_a_server_that_stays_overloaded_is_given_up():
    """The last 503 is raised."""
    server = Server(failed("overloaded", 503, headers={"Retry-After": "0"}))
    async with server.client(retries=2) as client:
        with pytest.raises(errors.Overloaded):
            await client.score(REQUEST)
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 422, 500, 504])
async def test_nothing_else_is_asked_again(status):
    """An answer is an answer."""
    server = Server(failed("internal_error", status))
    async with server.client() as client:
        with pytest.raises(errors.InternalError):
            await client.score(REQUEST)
    assert len(server.requests) == 1


def test_a_client_follows_from_loop_to_loop():
    """One `asyncio.run` a step, and what the first one left is no hindrance."""
    with served(Judge()) as url:
        client = AsyncClient(url)

        async def ask(client):
            several = await asyncio.gather(*(client.score(items(2)) for _ in range(40)))
            return [entries[1].score for entries in several]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a loop leaves its sockets open
            assert [asyncio.run(ask(client)) for _ in range(3)] == [[1.0] * 40] * 3
            asyncio.run(client.aclose())
            del client
            gc.collect()


async def test_a_client_is_not_of_two_loops_at_once():
    """It says so, with what to use."""
    async with Server(scored()).client() as client:
        await client.score(REQUEST)
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, client.score(REQUEST))


async def test_a_closed_client_is_not_asked():
    """It says so, and may be closed again."""
    client = Server(scored()).client()
    await client.aclose()
    await client.aclose()
    for ask in (client.score, client.models):
        with pytest.raises(RuntimeError, match="the client is closed"):
            await ask(*([REQUEST] if ask == client.score else []))
