"""What best of n by each rule is worth under a gold score."""

import gzip
import json

import numpy as np
import pytest

from loadtest import trust

MEMBERS = np.array([[[4.0, 0.0], [1.5, 1.5], [0.0, 0.0]]])  # (prompts, answers, members)
GOLD = np.array([[10.0, 20.0, 30.0]])


def test_each_rule_gets_the_gold_score_of_what_it_chooses():
    """The mean is taken in by one member; a random choice is what it is on average."""
    found = {rule: values.item() for rule, values in trust.chosen(MEMBERS, GOLD).items()}

    assert found == {
        **dict.fromkeys(("mean", "median", "vote", "first member"), 10.0),
        **dict.fromkeys(("min", "lower_bound", "variance_penalty", "random"), 20.0),
    }


def test_without_a_gold_model_each_member_is_gold_to_the_others():
    """In its standard deviations; a rule over one member chooses as that member does."""
    under, rated = trust.by_gold(MEMBERS, None, GOLD).values()
    first, second = (trust.standardized(MEMBERS[:, :, member])[0] for member in (0, 1))

    # By the second member's scores the second answer is the best, by the first one's the first.
    assert under["mean"].tolist() == pytest.approx([(first[1] + second[0]) / 2])
    assert under["random"].tolist() == pytest.approx([0.0])
    assert rated["min"].tolist() == [20.0]


def test_candidates_are_the_answers_that_are_rated(tmp_path):
    """Of prompts that have as many as are chosen of; what has no rating is left out."""
    folder = tmp_path
    write(folder / "question.jsonl.gz", [{"question_id": q, "turns": [f"Q {q}"]} for q in "ab"])
    for number in range(trust.N + 1):
        name = f"model-{number}"
        answers = [
            {"question_id": q, "model_id": name, "choices": [{"turns": [f"{q} by {name}"]}]}
            for q in "ab"
        ]
        write(folder / f"model_answer/{name}.jsonl.gz", answers)
        rated = {"a": number if number < trust.N else None, "b": number if number < 3 else 0}
        ratings = [
            {
                "question_id": q,
                "model": name,
                "score": None if score is None else score + (q == "a"),
            }
            for q, score in rated.items()
        ]
        write(folder / f"model_judgment/{name}.jsonl.gz", ratings)

    found = trust.candidates(folder, 10)

    assert {line["prompt"] for line in found} == {"Q a"}
    assert len(found) == trust.N
    assert all(line["response"] == f"a by model-{line['rating'] - 1}" for line in found)


def write(path, rows):
    """Write gzipped JSON lines."""
    path.parent.mkdir(exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
