"""The named workloads have the shapes that README.md states."""

import pytest

from loadtest.texts import Generated, Recorded
from loadtest.workloads import WORKLOADS, Closed, Open, best_of

TEXTS = Generated(seed=7)


def load(name, number=0, scale=1.0):
    return WORKLOADS[name].make(TEXTS, number, scale)


def test_groups_are_16_prompts_of_16_responses_a_request_each():
    """Every item is a request of its own; 16 share each prompt and no response is sent twice."""
    items = load("groups").items
    requests = list(load("groups").requests)
    prompts = [item.prompt for item in items]

    assert [len(request) for request in requests] == [1] * 256
    assert sorted(prompts.count(prompt) for prompt in set(prompts)) == [16] * 16
    assert len({item.response for item in items}) == 256
    assert load("groups").arrival == Closed(256)


def test_distinct_is_the_same_in_one_request_and_in_256():
    """The concurrent form differs only in how its items are sent."""
    one, many = load("distinct"), load("distinct-concurrent")

    assert [len(request) for request in one.requests] == [256]
    assert [len(request) for request in many.requests] == [1] * 256
    assert one.items == many.items
    assert len({item.prompt for item in one.items}) == 256


def test_repetitions_share_no_text():
    """Two numbers give other prompts and other responses; one number gives the same again."""
    first, second = load("groups", 0, 0.2), load("groups", 1, 0.2)

    assert not {item.prompt for item in first.items} & {item.prompt for item in second.items}
    assert not {item.response for item in first.items} & {item.response for item in second.items}
    assert load("groups", 1, 0.2) == second


@pytest.mark.parametrize("name", ["growing", "growing-at-once"])
def test_growing_solutions_extend_their_prefixes(name):
    """Each of 64 solutions has 12 prefixes, every one the start of the next."""
    items = load(name).items

    assert len(items) == 64 * 12
    assert len({item.prompt for item in items}) == 1
    for place, item in enumerate(items[64:]):
        assert item.response.startswith(items[place].response)
        assert len(item.response) > len(items[place].response)


def test_growing_waits_for_each_step():
    """Each step is a phase of one request."""
    assert [[len(request) for request in phase] for phase in load("growing").phases] == [[64]] * 12


def test_burst_leaves_within_a_second_on_new_connections():
    """2,048 requests at 2,048 a second."""
    assert len(list(load("burst").requests)) == 2048
    assert load("burst").arrival == Open(2048.0, new_connections=True)


def test_one_in_a_hundred_of_the_long_tail_is_long():
    """4 of 400 items are many times longer than the others, and the rate is found later."""
    words = [len(item.response.split()) for item in load("long-tail").items]

    assert sorted(set(words)) == [209, 7209]
    assert words.count(7209) == 4
    assert load("long-tail").arrival == Open(None)


def test_fat_is_one_request():
    """4,096 items with nothing in common."""
    (request,) = load("fat").requests

    assert len(request) == 4096
    assert len({item.prompt for item in request}) == 4096


def test_a_group_has_lengths_around_the_asked_one():
    """Responses have a third less to a third more words than asked for."""
    group = best_of(TEXTS, 0, 64, prompt_tokens=1100, response_tokens=110)
    words = [len(item.response.split()) for item in group]

    assert len(group[0].prompt.split()) == 1000
    assert min(words) >= 66
    assert max(words) <= 134


def test_recorded_groups_use_no_response_twice(tmp_path):
    """A file's groups come from other prompts until all were used, and never repeat a response."""
    lines = [
        f'{{"prompt": "p{prompt}", "response": "r{prompt}-{response}"}}\n'
        for prompt in range(4)
        for response in range(4)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(lines))
    texts = Recorded(file, seed=0)

    first, second = texts.groups(0, 2, 2), texts.groups(1, 2, 2)
    prompts = [[group[0].prompt for group in one] for one in (first, second)]

    assert sorted(prompts[0] + prompts[1]) == ["p0", "p1", "p2", "p3"]
    assert texts.groups(0, 2, 2) == first
    texts.groups(2, 4, 2)
    with pytest.raises(SystemExit, match="has no 1 more prompts with 1 unsent responses"):
        texts.groups(3, 1, 1)
