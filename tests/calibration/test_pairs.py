"""The file of labelled pairs: what a line may be, and on which side of the split it is."""

import gzip
import json
from collections import Counter

import pytest

from assay.calibration import pairs
from assay.errors import InvalidField

TURNS = [{"role": "user", "content": "Hello"}]
GOOD, BAD = ([*TURNS, {"role": "assistant", "content": text}] for text in ("Yes.", "No."))
PAIR = {"prompt": "Hello", "chosen": "Yes.", "rejected": "No."}


def read(folder, *lines):
    """Return the examples of these lines."""
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return pairs.read(file)


@pytest.mark.parametrize(
    "line",
    [
        PAIR,
        {**PAIR, "prompt": TURNS},
        {"chosen": GOOD, "rejected": BAD},
        {"prompt": "Hello", "chosen": GOOD, "rejected": BAD},
        {"prompt": TURNS, "chosen": GOOD[-1:], "rejected": BAD[-1:]},
    ],
)
def test_texts_and_messages_say_the_same(tmp_path, line):
    """A prompt may stand beside the responses or before them; it is one group either way."""
    (example,) = read(tmp_path, line)

    assert example.responses == ("Yes.", "No.")
    assert example.group == read(tmp_path, PAIR)[0].group


def test_labels_and_scores_are_of_one_response(tmp_path):
    """Each form in one file; `group` says what stays together, where the prompt doesn't."""
    examples = read(
        tmp_path,
        {"prompt": "a", "response": "b", "label": 1, "group": "g"},
        {"prompt": "a", "response": "b", "score": -2.5},
    )

    assert [(one.kind, one.value) for one in examples] == [("label", 1.0), ("score", -2.5)]
    assert examples[0].group == "g"
    assert examples[1].line == {"prompt": "a", "response": "b"}


def test_a_file_may_be_gzipped(tmp_path):
    """As `assay score` takes it."""
    file = tmp_path / "pairs.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps(PAIR).encode()))

    assert len(pairs.read(file)) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({**PAIR, "rejected": "Yes."}, "'chosen' and 'rejected' are equal"),
        ({"prompt": "a", "chosen": "b"}, "'rejected' is missing"),
        ({"prompt": "a", "rejected": "b"}, "'chosen' is missing"),
        ({"chosen": "a", "rejected": "b"}, "'prompt' is missing"),
        ({"prompt": "a", "label": 1}, "'response' is missing"),
        ({"prompt": "a", "response": "b"}, "has no label"),
        ({**PAIR, "label": 1}, "has 'chosen' and 'label'"),
        ({"prompt": "a", "response": "b", "label": 1, "score": 2}, "has 'label' and 'score'"),
        ({"prompt": "a", "response": "b", "label": 2}, "'label' is 0 or 1"),
        ({"prompt": "a", "response": "b", "label": "1"}, "'label' is 0 or 1"),
        ({"prompt": "a", "response": "b", "score": "high"}, "'score' is a number"),
        ({"prompt": "a", "response": "b", "score": True}, "'score' is a number"),
        ({"prompt": "a", "response": "b", "score": float("nan")}, "'score' is a number"),
        ({"prompt": "a", "response": "b", "score": 10**400}, "'score' is a number, at most"),
        ({**PAIR, "chosen": " "}, "'chosen' is a text, or a list of messages"),
        ({**PAIR, "chosen": [1]}, "'chosen' is a text, or a list of messages"),
        ({**PAIR, "prompt": 1}, "'prompt' is a text or a list"),
        ({**PAIR, "group": 1}, "'group' is a text"),
        ({"chosen": GOOD, "rejected": BAD[-1:]}, "both responses answer one prompt"),
        ({"prompt": "Bye", "chosen": GOOD, "rejected": BAD}, "both responses answer one prompt"),
    ],
)
def test_a_line_that_says_nothing_is_refused_by_its_number(tmp_path, line, reason):
    """One sentence; nothing is left out unsaid."""
    with pytest.raises(InvalidField, match=f"line 2.*{reason}"):
        read(tmp_path, PAIR, line)


def test_a_prompt_is_on_one_side():
    """By its hash and the seed alone; another seed divides otherwise, in about half each."""
    groups = [f"prompt {number}" for number in range(1_000)]
    first = [pairs.is_held_out(group, 0) for group in groups]

    assert first == [pairs.is_held_out(group, 0) for group in groups]
    assert first != [pairs.is_held_out(group, 1) for group in groups]
    assert 450 < sum(first) < 550


def test_scores_of_one_prompt_make_pairs(tmp_path):
    """Each with each that has another score; the higher one is the better."""
    lines = [("a", "x", 1), ("a", "y", 3), ("b", "z", 5), ("a", "w", 1), ("a", "v", 2)]
    examples = read(
        tmp_path, *({"prompt": p, "response": r, "score": score} for p, r, score in lines)
    )

    found = [
        (examples[better].responses[0], examples[worse].responses[0])
        for better, worse in pairs.scored_pairs(examples)
    ]

    assert found == [("y", "x"), ("v", "x"), ("y", "w"), ("y", "v"), ("v", "w")]


def test_a_prompt_stays_whole_whatever_its_lines_say(tmp_path):
    """Groups finer than a prompt are one group, and so are prompts that share one."""
    lines = [("a", "x"), ("a", "y"), ("b", "y"), ("b", None), ("c", None), ("d", "z")]
    examples = read(tmp_path, *({**PAIR, "prompt": p, "group": group} for p, group in lines))
    back = pairs.linked(examples[::-1])

    assert [one.group for one in examples[:4]] == ["x"] * 4
    assert examples[4].group == read(tmp_path, {**PAIR, "prompt": "c"})[0].group
    assert examples[5].group == "z"
    assert [one.group for one in back] == [one.group for one in examples[::-1]]


def test_folds_are_of_equally_many_prompts():
    """And of whole prompts, by their hash alone."""
    groups = [f"prompt {number % 23}" for number in range(60)]

    folds = pairs.folds(groups, 0)

    by_prompt = dict(zip(groups, folds, strict=True))
    assert [by_prompt[group] for group in groups] == folds
    assert sorted(Counter(by_prompt.values()).values()) == [4, 4, 5, 5, 5]
    assert pairs.folds(groups[::-1], 0) == folds[::-1]
