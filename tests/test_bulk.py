import json

import pytest

from assay import bulk, wire
from assay.errors import MalformedBody, UnknownTarget

ENVELOPE = {
    "id": "x",
    "created": 0,
    "model": "judge",
    "revision": "0123456789ab",
    "timing_ms": {"tokenize": 0, "queue": 0, "compute": 0, "total": 0},
}
PAIR = {"prompt": "Hi", "chosen": "long answer", "rejected": "short"}


class Judge:
    """Three members that like long texts: each item costs a token a character."""

    def __init__(self):
        self.requests = []

    async def score(self, request):
        self.requests.append(request)
        texts = [item.text or item.response for item in request.items()]
        return wire.ScoreAnswer(
            data=[
                wire.ScoreEntry(
                    index=i, id=item.id, score=float(len(text)), n_tokens=len(text), truncated=False
                )
                for i, (item, text) in enumerate(zip(request.items(), texts, strict=True))
            ],
            usage=_usage(sum(map(len, texts))),
            **ENVELOPE,
        )

    async def compare(self, request):
        self.requests.append(request)
        entries = [self._entry(i, one.candidates()) for i, one in enumerate(request.all())]
        tokens = sum(len(text) for one in request.all() for text in one.candidates())
        return wire.CompareAnswer(data=entries, usage=_usage(tokens), **ENVELOPE)

    def _entry(self, index, texts):
        lengths = [len(text) for text in texts]
        best = max(range(len(texts)), key=lambda i: (lengths[i], -i))
        is_tie = lengths.count(max(lengths)) > 1
        # Two of the three members agree on a narrow margin, all on a wide one.
        agreement = 1.0 if max(lengths) - min(lengths) > 3 else 2 / 3
        return wire.CompareEntry(
            index=index,
            scores=[float(length) for length in lengths],
            winner=None if is_tie else best,
            agreement=None if is_tie else agreement,
        )


class Refuser(Judge):
    """Serves no model of any name."""

    async def score(self, request):
        raise UnknownTarget(f"no model '{request.model}' is served")


def _usage(tokens):
    return wire.Usage(tokens=tokens, computed_tokens=tokens, shared_tokens=0)


@pytest.fixture
def source(tmp_path):
    return tmp_path / "items.jsonl"


@pytest.fixture
def sink(tmp_path):
    return tmp_path / "items.scores.jsonl"


def write(path, *lines):
    """Write lines, each a JSON object or a text as it is."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")


def read(path):
    """Return the lines of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("batch_lines", [1, 3, 100])
async def test_line_i_answers_line_i(source, sink, batch_lines):
    """Order is kept whatever the batches, items and comparisons mixed."""
    write(source, *({"text": "x" * i} if i % 3 else PAIR for i in range(1, 20)))
    await bulk.run(source, sink, Judge(), batch_lines=batch_lines)
    answers = read(sink)
    assert [answer["index"] for answer in answers] == list(range(19))
    assert [answer.get("score") for answer in answers] == [
        float(i) if i % 3 else None for i in range(1, 20)
    ]


async def test_a_run_goes_on_after_the_last_whole_line(source, sink):
    """What is done isn't done again; a half-written line is cut off and done anew."""
    write(source, *({"text": "x" * i} for i in range(1, 7)))
    await bulk.run(source, sink, Judge(), batch_lines=2)
    whole = sink.read_bytes()
    lines = whole.splitlines(keepends=True)
    sink.write_bytes(b"".join(lines[:3]) + lines[3][:10])
    judge = Judge()
    tally = await bulk.run(source, sink, judge, batch_lines=2)
    assert sink.read_bytes() == whole
    assert tally.lines == 3
    asked = [item.text for request in judge.requests for item in request.items()]
    assert asked == ["xxxx", "xxxxx", "xxxxxx"]


async def test_a_finished_run_asks_nothing(source, sink):
    """The same command again finds everything done."""
    write(source, {"text": "x"})
    await bulk.run(source, sink, Judge())
    judge = Judge()
    tally = await bulk.run(source, sink, judge)
    assert (tally.lines, judge.requests) == (0, [])


def test_nothing_is_finished_without_a_file(sink):
    """A sink that doesn't exist has no lines and isn't made."""
    assert bulk.finished_lines(sink) == 0
    assert not sink.exists()


async def test_an_empty_file_has_an_empty_answer(source, sink):
    """No lines in, no lines out."""
    write(source)
    tally = await bulk.run(source, sink, Judge())
    assert (tally.lines, tally.accuracy, sink.read_bytes()) == (0, None, b"")


async def test_unknown_fields_are_carried_over(source, sink):
    """What neither an item nor a comparison knows comes back with the answer."""
    write(source, {"text": "x", "id": "mine", "topic": "façade", "n": 3}, {**PAIR, "topic": "y"})
    await bulk.run(source, sink, Judge())
    first, second = read(sink)
    assert (first["id"], first["topic"], first["n"], first["score"]) == ("mine", "façade", 3, 1.0)
    assert second["topic"] == "y"
    assert "text" not in first
    assert "chosen" not in second


async def test_a_carried_field_never_replaces_the_answers(source, sink):
    """An input's own `score` or `index` gives way."""
    write(source, {"text": "xx", "score": 99, "index": 7})
    await bulk.run(source, sink, Judge())
    assert [(line["score"], line["index"]) for line in read(sink)] == [(2.0, 0)]


@pytest.mark.parametrize("text", ["{not json", "", "[1, 2]", '"text"'])
async def test_a_line_that_is_no_object_is_named(source, sink, text):
    """The message says which line, counted from one."""
    write(source, {"text": "x"}, {"text": "x"}, text)
    with pytest.raises(MalformedBody, match=r"^line 3 is not (a )?JSON"):
        await bulk.run(source, sink, Judge())


async def test_a_line_that_is_no_text_is_named(source, sink):
    """Bytes that aren't UTF-8 are an error of ours that says where they are."""
    source.write_bytes(b'{"text": "x"}\n{"text": "\xff"}\n')
    with pytest.raises(MalformedBody, match=r"^line 2 is not UTF-8"):
        await bulk.run(source, sink, Judge())


async def test_half_a_character_is_carried_over(source, sink):
    """A lone surrogate in a carried field comes back as it was escaped."""
    write(source, {"text": "x", "topic": "half: \ud83d"})
    await bulk.run(source, sink, Judge())
    assert [line["topic"] for line in read(sink)] == ["half: \ud83d"]


async def test_a_wrong_item_fails_only_its_line(source, sink):
    """A line that can't be scored has an error that names the field; the others have scores."""
    write(source, {"text": "x"}, {"id": "mine", "text": 5}, {"prompt": "Hi"}, {"text": "xxx"})
    tally = await bulk.run(source, sink, Judge())
    answers = read(sink)
    assert [answer.get("score") for answer in answers] == [1.0, None, None, 3.0]
    assert answers[1]["error"] == {
        "code": "invalid_field",
        "message": "text: Input should be a valid string",
    }
    assert "'response' is missing" in answers[2]["error"]["message"]
    assert (tally.lines, tally.errors, tally.codes) == (4, 2, {"invalid_field": 2})


async def test_a_wrong_line_keeps_its_id(source, sink):
    """`id` is echoed beside an error, too."""
    write(source, {"id": "mine", "text": 5})
    await bulk.run(source, sink, Judge())
    assert [line["id"] for line in read(sink)] == ["mine"]


async def test_comparisons_give_accuracy(source, sink):
    """The share of pairs whose chosen response won; a tie counts half."""
    won = {"prompt": "Hi", "chosen": "long", "rejected": "x"}
    lost = {"prompt": "Hi", "chosen": "x", "rejected": "long"}
    tied = {"prompt": "Hi", "chosen": "same", "rejected": "long"}
    write(source, won, won, lost, tied)
    tally = await bulk.run(source, sink, Judge())
    assert (tally.pairs, tally.correct, tally.accuracy) == (4, 2.5, 0.625)


async def test_comparisons_give_accuracy_by_agreement(source, sink):
    """Pairs on which more members agree are counted apart."""
    wide = {"prompt": "Hi", "chosen": "very long", "rejected": "x"}
    narrow = {"prompt": "Hi", "chosen": "xx", "rejected": "xxx"}
    write(source, wide, wide, narrow)
    tally = await bulk.run(source, sink, Judge())
    assert tally.by_agreement == {1.0: [1.0, 1.0], 0.667: [0.0]}


async def test_responses_without_a_preference_do_not_count_as_pairs(source, sink):
    """Nobody said which is right, so there is no accuracy."""
    write(source, {"prompt": "Hi", "responses": ["a", "bb", "ccc"]})
    tally = await bulk.run(source, sink, Judge())
    assert (tally.pairs, tally.accuracy) == (0, None)
    assert [line["winner"] for line in read(sink)] == [2]


async def test_requests_are_batch_work_that_fails_by_item(source, sink):
    """A file yields to interactive callers, and one bad line doesn't stop it."""
    write(source, {"text": "x"}, PAIR)
    judge = Judge()
    await bulk.run(source, sink, judge, model="judge")
    assert [(one.priority, one.on_error, one.model) for one in judge.requests] == [
        ("batch", "item", "judge"),
        ("batch", "item", "judge"),
    ]


async def test_progress_is_told_in_lines_and_tokens(source, sink):
    """Whoever shows a bar hears of each batch as it is written."""
    write(source, {"text": "x"}, {"text": "xx"}, {"text": "xxx"})
    told = []
    tally = await bulk.run(
        source, sink, Judge(), batch_lines=2, on_done=lambda *done: told.append(done)
    )
    assert (told, tally.tokens) == ([(2, 3), (1, 3)], 6)


async def test_a_service_that_refuses_everything_ends_the_run(source, sink):
    """An unknown model isn't an error of a line; what was written stays whole."""
    write(source, PAIR, {"text": "x"})
    with pytest.raises(UnknownTarget):
        await bulk.run(source, sink, Refuser(), model="nobody", batch_lines=1)
    assert [line["index"] for line in read(sink)] == [0]
