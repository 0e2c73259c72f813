"""Best of 16 by each rule over members, as a held-out gold member and GPT-4 see what was chosen.

    python -m loadtest.trust --data DIR --target FOLDER --gold FOLDER --prompts 100 --out SCORES

DIR is `data/arena-bench-v1` of lm-sys/arena-hard-auto (Apache-2.0): answers of 16 models to a
prompt, each with GPT-4's rating. Target and gold are ensembles' folders, which score all answers by
`assay score`; a second run goes on with the scores in SCORES. The gold score is the mean of the
gold's members. Without `--gold` each of the target's members is gold to the others in turn. What is
chosen by a rule is compared with what `mean` chooses, prompt by prompt, with 95 % intervals by
bootstrap over prompts. A random choice is what it is on average.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from assay.reward import selection
from loadtest.arena import rows

if TYPE_CHECKING:
    from collections.abc import Iterator

N = 16
RULES = ("mean", "median", "min", "lower_bound", "variance_penalty", "vote")
OTHERS = ("first member", "random")
RESAMPLES = 10_000
out = Console(width=110)


def candidates(folder: Path, count: int) -> list[dict[str, Any]]:
    """Return the rated answers to the first prompts by hash that have as many as are chosen of."""
    questions = {row["question_id"]: row["turns"][0] for row in rows(folder / "question.jsonl.gz")}
    rated: dict[str, dict[str, float]] = defaultdict(dict)
    for file in sorted((folder / "model_judgment").glob("*.jsonl.gz")):
        for row in rows(file):
            if (row["score"] or 0) > 0:
                rated[row["question_id"]][row["model"]] = row["score"]
    answers = {
        (row["question_id"], row["model_id"]): row["choices"][0]["turns"][0]
        for file in sorted((folder / "model_answer").glob("*.jsonl.gz"))
        for row in rows(file)
    }
    usable = [
        name
        for name, ratings in rated.items()
        if sum((name, model) in answers for model in ratings) == N
    ]
    usable.sort(key=lambda name: hashlib.sha256(questions[name].encode()).digest())
    return [
        {"prompt": questions[name], "response": answers[name, model], "rating": rating}
        for name in usable[:count]
        for model, rating in sorted(rated[name].items())
        if (name, model) in answers
    ]


def scored(lines: list[dict[str, Any]], target: Path, sink: Path, threads: int) -> np.ndarray:
    """Return (answers, members) of a target's scores; NaN where an answer has none."""
    file = sink.with_suffix(".jsonl")
    with file.open("w", encoding="utf-8") as items:
        for line in lines:
            item = {"prompt": line["prompt"], "response": line["response"]}
            items.write(json.dumps(item) + "\n")
    scores = sink.with_suffix(".scores.jsonl")
    command = [sys.executable, "-m", "assay", "score", str(file), "--model", str(target)]
    command += ["--threads", str(threads), "-o", str(scores)]
    done = subprocess.run(command, check=False)
    if done.returncode not in (0, 1):  # 1: of some answers there is no score
        raise SystemExit(done.returncode)
    answers = [json.loads(line) for line in scores.read_text(encoding="utf-8").splitlines()]
    width = max(len(answer.get("members") or ()) for answer in answers)
    return np.array(
        [
            [np.nan] * width if answer.get("error") else list(answer["members"].values())
            for answer in answers
        ]
    )


def choices(members: np.ndarray) -> Iterator[tuple[str, int]]:
    """Yield what each rule chooses of one prompt's answers; `members` is (answers, members)."""
    rewards = members.T.tolist()
    for rule in RULES:
        yield rule, selection.select(rewards, rule=rule).ranking[0]
    yield "first member", int(members[:, 0].argmax())


def chosen(members: np.ndarray, gold: np.ndarray) -> dict[str, np.ndarray]:
    """Return the gold score of what each rule chooses, by prompt.

    `members` is (prompts, answers, members), `gold` (prompts, answers).
    """
    found: dict[str, list[float]] = defaultdict(list)
    for scores, values in zip(members, gold, strict=True):
        for rule, place in choices(scores):
            found[rule].append(values[place])
        found["random"].append(values.mean())
    return {rule: np.array(values) for rule, values in found.items()}


def by_gold(
    members: np.ndarray, gold: np.ndarray | None, ratings: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Return by what is taken as gold what each rule's choices are worth, by prompt.

    Gold scores are in standard deviations over all answers, less their mean.
    """
    if gold is not None:
        under = chosen(members, standardized(gold.mean(axis=2)))
    else:
        turns = [
            chosen(np.delete(members, turn, axis=2), standardized(members[:, :, turn]))
            for turn in range(members.shape[2])
        ]
        under = {rule: np.mean([turn[rule] for turn in turns], axis=0) for rule in turns[0]}
    return {
        "gold member" if gold is not None else "each member to the others": under,
        "GPT-4's rating, 1 to 10": chosen(members, ratings),
    }


def standardized(scores: np.ndarray) -> np.ndarray:
    """Return scores less their mean, in standard deviations."""
    return np.asarray((scores - scores.mean()) / scores.std())


def interval(values: np.ndarray) -> str:
    """Return a mean over prompts with its interval."""
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), (0.025, 0.975))
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Score what isn't scored yet and print a table for each gold."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.trust", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--gold", type=Path)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    lines = candidates(args.data, args.prompts)
    names = [args.target, *([args.gold] if args.gold else [])]
    scores = [scored(lines, name, args.out / name.resolve().name, args.threads) for name in names]
    whole = [one.reshape(-1, N, one.shape[1]) for one in scores]
    kept = ~np.any([np.isnan(one).any(axis=(1, 2)) for one in whole], axis=0)
    ratings = np.array([line["rating"] for line in lines], dtype=float).reshape(-1, N)[kept]
    members, *gold = [one[kept] for one in whole]
    out.print(f"{kept.sum()} prompts; {(~kept).sum()} have an answer that can't be scored")
    for title, found in by_gold(members, gold[0] if gold else None, ratings).items():
        table = Table("chosen by", "mean", "less what `mean` chooses", "others chosen", title=title)
        for rule in (*RULES, *OTHERS):
            change = found[rule] - found["mean"]
            others = "" if rule == "random" else f"{(change != 0).mean():.2f}"
            table.add_row(rule, interval(found[rule]), interval(change), others)
        out.print(table)


if __name__ == "__main__":
    main()
