import pytest

from assay import AsyncClient, errors, wire
from tests.client.judge import LIMIT, Judge, items, refusal, served

LONG = {"prompt": "Why?", "response": "x" * (LIMIT + 1)}


@pytest.fixture
def judge():
    return Judge()


@pytest.fixture
def url(judge):
    with served(judge) as url:
        yield url


def lazily(count):
    yield from items(count)


async def slowly(count):
    for one in items(count):
        yield one


@pytest.mark.parametrize("count", [0, 1, 1024, 10_000])
@pytest.mark.parametrize("source", [items, lazily, slowly])
async def test_every_item_has_its_score_at_its_place(judge, url, source, count):
    """Lists, iterables and async iterables of any length: one entry an item, in order."""
    async with AsyncClient(url, chunk_bytes=20_000) as client:
        entries = await client.score(source(count))
    assert [(one.index, one.score) for one in entries] == [(i, float(i)) for i in range(count)]
    assert sum(len(body["inputs"]) for body in judge.bodies) == count


async def test_nothing_is_asked_about_nothing(judge, url):
    """An empty list costs no request."""
    async with AsyncClient(url) as client:
        assert await client.score([]) == []
    assert judge.bodies == []


@pytest.mark.parametrize(
    "item",
    [
        {"prompt": "Why?", "response": "as 7"},
        wire.Item(prompt="Why?", response="as 7"),
        ("Why?", "as 7"),
        ([{"role": "user", "content": "Why?"}], "as 7"),
        {"text": "7"},
    ],
)
async def test_one_item_gives_one_entry(url, item):
    """A dict, an item of the wire, or a pair isn't a list."""
    async with AsyncClient(url) as client:
        entry = await client.score(item)
        listed = await client.score([item, item])
    assert (entry.index, entry.score) == (0, 7.0)
    assert [one.score for one in listed] == [7.0, 7.0]


async def test_pairs_of_prompt_and_responses_are_compared(url):
    """`compare` and `best_of_n` take one, or many, as `score` does."""
    pair = ("Why?", ["a", "b"])
    async with AsyncClient(url) as client:
        assert (await client.compare(pair)).winner == 0
        assert [one.index for one in await client.compare([pair] * 3)] == [0, 1, 2]
        assert (await client.best_of_n(pair, top_k=1)).n == 2
        assert [one.index for one in await client.best_of_n([pair] * 3)] == [0, 1, 2]


async def test_options_are_sent_and_the_clients_model_is_the_default(judge, url):
    """Keywords are the wire's fields; what isn't given isn't sent."""
    async with AsyncClient(url, model="one") as client:
        await client.score(("Why?", "1"), activation="sigmoid")
        await client.score([("Why?", "1")], model="two")
        await client.score(wire.ScoreRequest(inputs=[wire.Item(text="1")]))
    rest = [{key: value for key, value in one.items() if key != "inputs"} for one in judge.bodies]
    assert rest == [
        {"activation": "sigmoid", "model": "one"},
        {"model": "two", "on_error": "fail"},
        {"model": "one"},
    ]


@pytest.mark.parametrize("options", [{"temprature": 1}, {"activation": "tanh"}])
async def test_a_wrong_option_is_said_before_anything_is_sent(judge, url, options):
    """The field is named."""
    async with AsyncClient(url) as client:
        with pytest.raises(errors.InvalidField) as error:
            await client.score([("Why?", "1")], **options)
    assert error.value.param == next(iter(options))
    assert judge.bodies == []


@pytest.mark.parametrize("things", ["a text", 3, wire.Group(prompt="Why?", responses=["a"])])
async def test_what_is_no_item_is_refused(url, things):
    """A text isn't an iterable of items."""
    async with AsyncClient(url) as client:
        with pytest.raises(errors.InvalidField, match="give a dict"):
            await client.score(things)


async def test_an_item_over_the_limit_fails_alone_if_told(url):
    """With `on_error="item"` its entry has the server's error; the others have scores."""
    given = [*items(700), {**LONG}, *items(300)]
    async with AsyncClient(url, chunk_bytes=10_000) as client:
        entries = await client.score(given, on_error="item")
        streamed = [entry async for entry in client.stream(given)]
    assert [entry.index for entry in entries if entry.error] == [700]
    assert entries[700].error.code == "item_too_long"
    assert entries[999].score == 298.0
    assert streamed == entries


async def test_an_item_over_the_limit_fails_the_call_otherwise(judge, url):
    """The error is the server's, and names the item by its place in the whole list."""
    async with AsyncClient(url, chunk_bytes=10_000) as client:
        with pytest.raises(errors.ItemTooLong) as error:
            await client.score([*items(700), LONG, *items(300)])
        assert error.value.param == "inputs[700].response"
        judge.bodies.clear()
        with pytest.raises(errors.ItemTooLong):
            await client.score([*items(7), LONG])
    assert [len(body["inputs"]) for body in judge.bodies] == [8]


UNREADABLE = [
    {"prompt": "half \ud83d", "response": "of 1"},
    {"prompt": "no response"},
    {"response": 3, "prompt": "Why?"},
    {"text": "1", "mood": "good"},
    17,
    None,
]


@pytest.mark.parametrize("bad", UNREADABLE)
async def test_what_json_cant_say_is_refused_here(judge, url, bad):
    """A lone surrogate or a misspelt field never reaches the server, which would refuse all."""
    given = [*items(2), bad, *items(2)]
    async with AsyncClient(url) as client:
        entries = await client.score(given, on_error="item")
        with pytest.raises(errors.InvalidField) as error:
            await client.score(given)
    assert [one.score for one in entries] == [0.0, 1.0, None, 0.0, 1.0]
    assert (entries[2].index, entries[2].error.code) == (2, "invalid_field")
    assert error.value.param.startswith("inputs[2]")
    assert "half" not in str(error.value)
    assert len(judge.bodies) == 1


@pytest.mark.parametrize("text", ["🌞 1", "\x00 1", "\u2028 1", '"\\ 1'])
async def test_any_character_arrives(judge, url, text):
    """What the server reads is what was given."""
    async with AsyncClient(url) as client:
        entry = await client.score(("Why?", text))
    assert entry.score == 1.0
    assert judge.bodies[0]["inputs"] == [{"prompt": "Why?", "response": text}]


async def test_a_body_over_the_servers_limit_is_halved():
    """The client needn't know `max_body_bytes`; an item that is too large alone fails alone."""
    judge = Judge(max_body_bytes=2_000)
    huge = {"prompt": "x" * 3_000, "response": "1"}
    with served(judge) as url:
        async with AsyncClient(url) as client:
            entries = await client.score([*items(100), huge, *items(100)], on_error="item")
    assert [one.index for one in entries] == list(range(201))
    assert [one.error.code for one in entries if one.error] == ["body_too_large"]
    assert entries[100].error
    assert sum(len(body["inputs"]) for body in judge.bodies) == 200


async def test_a_body_over_a_proxys_limit_is_halved(judge, url):
    """Which says so in HTML."""
    judge.before = [(413, {}, b"<html>413 Request Entity Too Large</html>")]
    async with AsyncClient(url) as client:
        entries = await client.score(items(100))
    assert [one.score for one in entries] == [float(number) for number in range(100)]
    assert [len(body["inputs"]) for body in judge.bodies] == [100, 50, 50]


async def test_an_item_only_the_server_cant_read_fails_alone(judge, url):
    """A server of another version refuses a request for one item: the others are sent again."""
    judge.before = [refusal("invalid_field", 422, param="inputs[1].response")]
    async with AsyncClient(url) as client:
        entries = await client.score(items(3), on_error="item")
    assert [one.score for one in entries] == [0.0, None, 2.0]
    assert entries[1].error.code == "invalid_field"


async def test_an_answer_of_another_length_is_an_error(judge, url):
    """Nothing is guessed: n items have n entries, in order."""
    status, headers, answer = judge.score({"inputs": items(2)})
    judge.before = [(status, headers, answer)]
    async with AsyncClient(url) as client:
        with pytest.raises(errors.ServiceError, match="2 entries to 3"):
            await client.score(items(3))


async def test_a_progress_bar_counts_to_the_end(url, capsys):
    """On request, on stderr."""
    async with AsyncClient(url) as client:
        await client.score(items(30), progress=True)
    shown = capsys.readouterr()
    assert "30/30" in shown.err
    assert shown.out == ""
