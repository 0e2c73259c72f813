import asyncio
import fcntl
import gzip
import json
import os
import re
from pathlib import Path

import pytest

from assay import bulk, wire
from assay.errors import BodyTooLarge, InvalidField, MalformedBody, NotReady, UnknownTarget

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

    def __init__(self, model="judge", revision=ENVELOPE["revision"], dtype=None):
        self.requests = []
        self.envelope = {**ENVELOPE, "model": model, "revision": revision}
        self.dtype = dtype
        self.only_compares = False

    async def target(self, model):
        return bulk.Target(
            model=self.envelope["model"],
            revision=self.envelope["revision"],
            dtype=self.dtype,
            only_compares=self.only_compares,
        )

    async def best_of_n(self, request):
        self.requests.append(request)
        entries = [
            wire.BestOfNEntry(index=i, id=one.id, n=len(one.candidates()))
            for i, one in enumerate(request.all())
        ]
        return wire.BestOfNAnswer(data=entries, usage=_usage(1), **self.envelope)

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
            **self.envelope,
        )

    async def compare(self, request):
        self.requests.append(request)
        entries = [self._entry(i, one.candidates()) for i, one in enumerate(request.all())]
        tokens = sum(len(text) for one in request.all() for text in one.candidates())
        return wire.CompareAnswer(data=entries, usage=_usage(tokens), **self.envelope)

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

    async def target(self, model):
        raise UnknownTarget(f"no model '{model}' is served")


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
    assert (tally.lines, tally.new, tally.total) == (6, 3, 6)
    asked = [item.text for request in judge.requests for item in request.items()]
    assert asked == ["xxxx", "xxxxx", "xxxxxx"]


async def test_a_finished_run_asks_nothing(source, sink):
    """The same command again finds everything done."""
    write(source, {"text": "x"})
    await bulk.run(source, sink, Judge())
    judge = Judge()
    tally = await bulk.run(source, sink, judge)
    assert (tally.lines, tally.new, judge.requests) == (1, 0, [])


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
    old = {"score": 99, "scores": [9, 9], "winner": 1, "members": {"x": 1}, "attributes": {"x": 1}}
    write(source, {"text": "xx", "index": 7, "model": "writer", **old}, {"text": 5, **old})
    await bulk.run(source, sink, Judge())
    scored, failed = read(sink)
    assert (scored["score"], scored["index"], scored["model"]) == (2.0, 0, "judge")
    assert (failed["score"], failed["index"], failed["model"]) == (None, 1, "judge")
    assert not {"members", "attributes"} & (scored.keys() | failed.keys())


@pytest.mark.parametrize(
    "line",
    [
        {**PAIR, "response": "x"},
        {**PAIR, "messages": [{"role": "assistant", "content": "x"}]},
        {"prompt": "Hi", "response": "x", "rejected": "y"},
        {"prompt": "Hi", "responses": ["x", "y"], "text": "z"},
    ],
)
async def test_a_line_of_two_kinds_is_refused(source, sink, line):
    """One of them would be dropped without a word."""
    write(source, line)
    await bulk.run(source, sink, Judge())
    (answer,) = read(sink)
    assert "one item or one comparison" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{not json", "is not JSON: Expecting property name enclosed in double quotes at"),
        ('{"text": "x"', "is not JSON: Expecting ',' delimiter at its end"),
        ('{"text": "x"} {}', "is not JSON: Extra data at character 15"),
        ("[1, 2]", "is not a JSON object, but a list"),
        ('"text"', "is not a JSON object, but a string"),
        ("null", "is not a JSON object, but null"),
        ("[" * 100_000, "is not JSON that can be read: it is nested too deeply"),
        ('{"n": ' + "1" * 5000 + "}", "is not JSON that can be read: Exceeds the limit"),
    ],
)
async def test_a_line_that_is_no_object_is_named_before_anything_is_asked(source, sink, text, says):
    """The message says which line of the file, counted from one, blank ones too, and why."""
    write(source, {"text": "x"}, "", text)
    judge = Judge()
    with pytest.raises(MalformedBody, match=f"^line 3 {re.escape(says)}"):
        await bulk.run(source, sink, judge)
    assert not judge.requests
    assert not sink.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b'{"text": "x"}\n{"text": "\xff"}\n',
            "line 2 is not UTF-8: invalid start byte at its byte",
        ),
        ('{"text": "x"}\n'.encode("utf-16"), "line 1 is not UTF-8: .*; the file looks like UTF-16"),
        (b"\x1f\x8bnot gzip", r".*items\.jsonl can't be read: "),
        (gzip.compress(b'{"text": "x"}\n' * 99, mtime=0)[:-20], r".*items\.jsonl can't be read: "),
        (b" " * (2**26 + 1), "line 1 has over 64 MiB"),
    ],
)
async def test_a_file_that_is_no_text_is_refused(source, sink, content, says):
    """Bytes that aren't UTF-8 are an error of ours that says where they are."""
    source.write_bytes(content)
    with pytest.raises(MalformedBody, match=f"^{says}"):
        await bulk.run(source, sink, Judge())


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"text": "x"}\r\n\r\n  \t\n{"text": "xx"}',
        b'\n\n{"text": "x"}\n{"text": "xx"}\n\n',
        gzip.compress(b'{"text": "x"}\n\n{"text": "xx"}\n', mtime=0),
    ],
)
async def test_lines_end_and_files_begin_as_any_program_writes_them(source, sink, content):
    """A byte-order mark, CRLF, blank lines, no end of the last line, gzip: the same two lines."""
    source.write_bytes(content)
    tally = await bulk.run(source, sink, Judge())
    assert [(one["index"], one["score"]) for one in read(sink)] == [(0, 1.0), (1, 2.0)]
    assert (tally.total, tally.lines) == (2, 2)


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
        "message": "field 'text': Input should be a valid string",
    }
    assert answers[2]["error"]["message"].startswith("'response' is missing")
    assert (tally.lines, tally.errors, tally.codes) == (4, 2, {"invalid_field": 2})


async def test_an_option_in_a_line_is_refused(source, sink):
    """It would do nothing, and stand beside the score as if it had."""
    write(source, {"text": "one", "normalize": True}, {"text": "two", "truncation": "response_end"})
    tally = await bulk.run(source, sink, Judge())
    assert tally.errors == 2
    assert [line["error"]["message"].split()[0] for line in read(sink)] == [
        "'normalize'",
        "'truncation'",
    ]


async def test_half_a_character_fails_only_its_line(source, sink):
    """No request can carry it."""
    source.write_bytes(b'{"text": "one"}\n{"text": "\\ud83d"}\n{"text": "three"}\n')
    tally = await bulk.run(source, sink, Judge())
    assert (tally.lines, tally.errors) == (3, 1)
    assert ["error" in line and line["line"] for line in read(sink)] == [False, 2, False]


@pytest.mark.parametrize("own", ["disk full", {"code": "x", "message": "old"}])
async def test_a_column_called_error_is_not_the_answers(source, sink, own):
    """Neither counted nor carried."""
    write(source, {"text": "one", "error": own})
    tally = await bulk.run(source, sink, Judge())
    assert tally.errors == 0
    assert "error" not in read(sink)[0]


async def test_a_wrong_line_keeps_its_id(source, sink):
    """`id` is echoed beside an error, too, and may be a number, as in RewardBench's rows."""
    write(source, {"id": "mine", "text": 5}, {"id": 30, "text": 5}, {"id": 31, "text": "xx"})
    await bulk.run(source, sink, Judge())
    assert [(line["id"], line["score"]) for line in read(sink)] == [
        ("mine", None),
        (30, None),
        (31, 2.0),
    ]


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
    assert tally.by_agreement == {1.0: [2, 2.0], 0.667: [1, 0.0]}  # pairs, won


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
    assert not sink.exists()


# --- what a run is of -------------------------------------------------------------------------


async def scored(source, sink, judge=None, **options):
    """Score a file, and return the tally."""
    return await bulk.run(source, sink, judge or Judge(), options=bulk.Options(**options))


async def test_every_line_says_of_which_revision_it_is(source, sink):
    """Errors, too; a line's own `revision` gives way."""
    write(source, {"text": "x", "revision": "mine"}, {"text": 5}, PAIR)
    await bulk.run(source, sink, Judge())
    assert [line["revision"] for line in read(sink)] == [ENVELOPE["revision"]] * 3


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    ("judge", "options", "says"),
    [
        (Judge("other"), {}, "model judge (now other)"),
        (Judge(revision="ba9876543210"), {}, "revision 0123456789ab (now ba9876543210)"),
        (Judge(dtype="bfloat16"), {}, "dtype float32 (now bfloat16)"),
        (None, {"activation": "sigmoid"}, "--activation none (now sigmoid)"),
        (None, {"include": ("members", "tokens")}, "--include members (now members,tokens)"),
        (None, {"rule": "min"}, "--rule none (now min)"),
    ],
)
async def test_what_was_scored_otherwise_is_not_mixed(
    source, sink, is_finished, judge, options, says
):
    """Not even where nothing is left to score; what is there stays as it was."""
    write(source, {"text": "x"}, {"prompt": "Hi", "responses": ["a", "bb"]})
    await scored(source, sink, Judge(dtype="float32"))
    if not is_finished:
        sink.write_bytes(sink.read_bytes()[:-10])
    before = sink.read_bytes()
    with pytest.raises(InvalidField, match=re.escape(says)):
        await scored(source, sink, judge or Judge(dtype="float32"), **options)
    assert sink.read_bytes() == before


async def test_another_input_is_not_mixed(source, sink):
    """One changed byte is enough; how it is packed isn't."""
    write(source, {"text": "x"})
    await scored(source, sink)
    source.write_bytes(gzip.compress(source.read_bytes(), mtime=0))
    assert (await scored(source, sink)).lines == 1
    write(source, {"text": "y"})
    with pytest.raises(InvalidField, match=r"holds 1 lines of input [0-9a-f]{12} \(now "):
        await scored(source, sink)


async def test_an_output_that_nobody_knows_is_not_written_to(source, sink):
    """Whatever it is, it isn't ours to go on with."""
    write(source, {"text": "x"}, {"text": "xx"})
    write(sink, {"score": 1.0})
    with pytest.raises(InvalidField, match=r"nothing says what of .* is missing\); move it away"):
        await scored(source, sink)
    with pytest.raises(InvalidField, match="is the input itself"):
        await scored(source, source)
    assert read(sink) == [{"score": 1.0}]


async def test_a_pipe_is_refused(tmp_path, sink):
    """It can be read once only, and would be waited for for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MalformedBody, match="is no file, and is to be read twice"):
        await scored(tmp_path / "pipe", sink)


@pytest.mark.parametrize("device", ["/dev/full", "/dev/zero"])
async def test_an_output_that_has_no_end_is_refused(source, device):
    """What is in it would be read, to go on from there."""
    write(source, {"text": "x"})
    with pytest.raises(InvalidField, match=f"{device} isn't a regular file"):
        await scored(source, Path(device))


async def test_an_output_is_of_one_run_at_a_time(source, sink):
    """Two that were started by mistake don't write between each other's lines."""
    write(source, {"text": "x"})
    with sink.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InvalidField, match="is being written by another run"):
            await scored(source, sink)


async def test_what_can_not_be_written_is_said(source, tmp_path):
    """A folder that isn't there is a sentence, not a traceback."""
    write(source, {"text": "x"})
    with pytest.raises(InvalidField, match="can't be written: No such file or directory"):
        await scored(source, tmp_path / "nowhere" / "out.jsonl")


async def test_a_summary_is_of_the_whole_file(source, sink):
    """Accuracy, agreement and errors of what earlier runs wrote count, too."""
    lost = {"prompt": "Hi", "chosen": "x", "rejected": "long answer"}
    write(source, PAIR, lost, "", {"text": 5}, PAIR)
    whole = await scored(source, sink)
    lines = sink.read_bytes().splitlines(keepends=True)
    for kept in (0, 1, 3, 4):
        sink.write_bytes(b"".join(lines[:kept]))
        again = await scored(source, sink)
        assert (again.lines, again.new, again.pairs, again.correct) == (4, 4 - kept, 3, 2.0)
        assert (again.errors, again.first) == (1, whole.first)
        assert again.by_agreement == whole.by_agreement
    assert whole.first == {"invalid_field": (4, "field 'text': Input should be a valid string")}
    assert [line.get("line") for line in read(sink)] == [None, None, 4, None]


class Reloaded(Judge):
    """A server whose model is another from some request on."""

    async def score(self, request):
        if self.requests:
            self.envelope["revision"] = "ba9876543210"
        return await super().score(request)


class Gone(Judge):
    """A server whose worker dies under a line."""

    async def score(self, request):
        answer = await super().score(request)
        if len(self.requests) < 2:
            return answer
        lost = {"score": None, "error": wire.ItemError(code="not_ready", message="it is away")}
        return answer.model_copy(update={"data": [answer.data[0].model_copy(update=lost)]})


@pytest.mark.parametrize(
    ("judge", "error", "says"),
    [
        (Reloaded(), InvalidField, "at revision ba9876543210 answers now"),
        (Gone(), NotReady, "it is away"),
    ],
)
async def test_what_another_answers_in_between_or_nobody_is_not_kept(
    source, sink, judge, error, says
):
    """The run ends; what came before is there, and the next run goes on with that."""
    write(source, {"text": "x"}, {"text": "xx"})
    with pytest.raises(error, match=says):
        await bulk.run(source, sink, judge, batch_lines=1)
    assert [line["score"] for line in read(sink)] == [1.0]
    assert (await bulk.run(source, sink, Judge())).new == 1


class Slow(Judge):
    """A server that never answers more than some requests."""

    async def score(self, request):
        if len(self.requests) > 2:
            await asyncio.Event().wait()
        return await super().score(request)


async def test_lines_are_kept_as_they_come(source, sink):
    """A model that takes a second a line has written some long before a full request is through."""
    write(source, *({"text": "x"} for _ in range(100)))
    tally, is_some = bulk.Tally(), asyncio.Event()

    def look(*_):
        if tally.lines == 12:
            is_some.set()

    running = asyncio.create_task(bulk.run(source, sink, Slow(), tally=tally, on_done=look))
    await is_some.wait()
    running.cancel()
    await asyncio.wait([running])
    assert (len(read(sink)), tally.lines, tally.total) == (12, 12, 100)
    assert (await bulk.run(source, sink, Judge())).new == 88


async def test_requests_grow_to_what_was_asked_for(source, sink):
    """A fast server gets few requests."""
    write(source, *({"text": "x"} for _ in range(300)))
    judge = Judge()
    await bulk.run(source, sink, judge, batch_lines=40)
    sizes = [len(request.items()) for request in judge.requests]
    assert (sizes[0], max(sizes), sum(sizes)) == (4, 40, 300)


class Narrow(Judge):
    """A server that takes bodies of two items at most, and none with a long text."""

    async def score(self, request):
        if len(request.items()) > 2 or any(len(one.text) > 9 for one in request.items()):
            raise BodyTooLarge("over the limit")
        return await super().score(request)


async def test_a_body_over_the_limit_is_halved(source, sink):
    """Down to a line, which fails alone."""
    write(source, *({"text": "x" * i} for i in (1, 2, 3, 99, 5)))
    tally = await bulk.run(source, sink, Narrow())
    assert [line.get("score") for line in read(sink)] == [1.0, 2.0, 3.0, None, 5.0]
    assert tally.codes == {"body_too_large": 1}


async def test_options_are_asked_of_every_line(source, sink):
    """Also of comparisons, for their members and spread."""
    write(source, {"text": "x"}, PAIR, {"prompt": "Hi", "responses": ["a"]})
    judge = Judge()
    await scored(
        source,
        sink,
        judge,
        include=("members", "tokens"),
        activation="sigmoid",
        normalize=True,
        truncation="longest_first",
        rule="min",
    )
    asked = [(one.include, one.activation, one.normalize, one.truncation) for one in judge.requests]
    assert asked == [(["members", "tokens"], "sigmoid", True, "longest_first")] * 3
    assert judge.requests[2].rule == "min"
    assert [line.get("n") for line in read(sink)] == [None, None, 1]


async def test_a_model_that_only_compares_is_asked_for_no_members(source, sink):
    """It has none, and refuses to include them."""
    write(source, PAIR)
    judge = Judge()
    judge.only_compares = True
    await scored(source, sink, judge)
    assert [one.include for one in judge.requests] == [[]]


async def test_a_rule_without_anything_to_pick_among_is_refused(source, sink):
    """An option that does nothing is a mistake."""
    write(source, PAIR)
    with pytest.raises(InvalidField, match=r"no line of .* has several"):
        await scored(source, sink, rule="min")


async def test_chains_of_steps_are_groups(source, sink):
    """They are picked among by the default rule."""
    write(source, {"prompt": "Hi", "chains": [["a", "b"], ["c"]], "id": "mine"})
    await scored(source, sink)
    assert [(line["id"], line["n"]) for line in read(sink)] == [("mine", 2)]
