import multiprocessing
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from assay import Client, errors, wire
from tests.client.judge import Judge, items, refusal, served
from tests.http.processes import until


@pytest.fixture
def judge():
    return Judge()


@pytest.fixture
def client(judge):
    with served(judge) as url, Client(url, chunk_bytes=5_000) as client:
        yield client


def test_it_answers_as_the_async_client_does(client):
    """One, many, whole requests, comparisons, groups, models."""
    pair = ("Why?", ["a", "b"])
    assert client.score(("Why?", "as 7")).score == 7.0
    assert [one.score for one in client.score(items(1_000))] == [float(n) for n in range(1_000)]
    assert client.score([]) == []
    assert client.score(wire.ScoreRequest(inputs=[wire.Item(text="1")])).model == "judge"
    assert [one.winner for one in client.compare([pair, pair])] == [0, 0]
    assert client.best_of_n(pair).n == 2
    assert [one.id for one in client.models().data] == ["judge"]


def test_errors_are_raised_in_the_callers_thread(judge, client):
    """As the server's tree."""
    judge.before = [refusal("unauthorized", 401)]
    with pytest.raises(errors.Unauthorized):
        client.score({"text": "1"})


def test_a_stream_comes_while_its_source_goes_on(client):
    """A generator that waits for its own results doesn't wait for ever."""
    answered = threading.Event()

    def one_by_one():
        for number in range(3):
            yield {"text": str(number)}
            assert answered.wait(10)
            answered.clear()

    scores = []
    for entry in client.stream(one_by_one()):
        scores.append(entry.score)
        answered.set()
    assert scores == [0.0, 1.0, 2.0]


def test_a_source_that_fails_is_raised_in_its_turn(client):
    """What came before the failure is yielded first."""

    def breaking():
        yield from items(3)
        raise LookupError("no more")

    stream = client.stream(breaking())
    assert [next(stream).score for _ in range(3)] == [0.0, 1.0, 2.0]
    with pytest.raises(LookupError, match="no more"):
        next(stream)


def test_a_stream_may_be_left(client):
    """The rest isn't asked for, and the client still answers."""
    stream = client.stream(items(10_000))
    next(stream)
    stream.close()
    assert client.score(("Why?", "as 7")).score == 7.0


def test_threads_share_a_client(client):
    """Each gets its own answers."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: client.score(("Why?", f"as {n}")).score, range(64)))
    assert found == [float(number) for number in range(64)]


def test_closing_ends_the_thread(judge):
    """Nothing is left running."""
    before = threading.active_count()
    with served(judge) as url:
        with Client(url) as client:
            client.score({"text": "1"})
        assert [one for one in threading.enumerate() if "assay client" in one.name] == []
    assert threading.active_count() == before


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
def test_a_forked_process_asks_for_itself(client):
    """A data loader's worker doesn't wait for a thread it hasn't got."""
    assert client.score({"text": "1"}).score == 1.0
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    worker = context.Process(target=lambda: results.put(client.score({"text": "2"}).score))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that threads are running is meant
        worker.start()
    assert results.get(timeout=30) == 2.0
    worker.join()


LEFT = """
stream = client.stream([{"text": str(number)} for number in range(5_000)])
print(next(stream).score)
"""
LEFT_BY_AN_ERROR = """
def main():
    with client:
        for entry in client.stream({"text": str(number)} for number in range(5_000)):
            print(entry.score)
            sys.exit(0)
main()
"""
WAITING = """
def source():
    yield {"text": "0"}
    queue.Queue().get()
for entry in client.stream(source()):
    print(entry.score)
    break
"""


@pytest.mark.parametrize("program", [LEFT, LEFT_BY_AN_ERROR, WAITING])
def test_a_process_ends_though_a_stream_has_not(judge, program):
    """Left in the middle, or with a source that waits for ever."""
    with served(judge) as url:
        begin = f"import queue, sys\nfrom assay import Client\nclient = Client({url!r})\n"
        ended = subprocess.run(
            [sys.executable, "-c", begin + program], capture_output=True, timeout=60, check=False
        )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"0.0\n", b"")


def test_closing_takes_back_what_other_threads_ask():
    """They are told so, rather than waiting for ever."""
    judge = Judge(delay_s=5)
    with served(judge) as url, ThreadPoolExecutor(3) as pool:
        client = Client(url)
        asking = [
            pool.submit(client.score, {"text": "1"}),
            pool.submit(client.score, items(3)),
            pool.submit(lambda: next(client.stream(items(3)))),
        ]
        until("all are asked", lambda: len(judge.peers) == 3)
        client.close()
        for one in asking:
            with pytest.raises(RuntimeError, match="closed while it was asked"):
                one.result(30)


def test_a_closed_client_is_not_asked(client):
    """It says so, starts no thread, and may be closed again."""
    stream = client.stream(items(10_000))
    next(stream)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.score({"text": "1"})
    with pytest.raises(RuntimeError, match="the client is closed"):
        list(stream)
    assert [one for one in threading.enumerate() if "assay client" in one.name] == []
