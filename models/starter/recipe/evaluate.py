"""Measure the saved members on the held-out pairs and beyond; write evaluation.json."""

from __future__ import annotations

import argparse
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from bag import fit
from pairs import READERS, Pair, judges, read
from split import SALT, balanced, by_source, held_out, longer_wins, training

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 2048
BATCH_TOKENS = 3072
BEYOND = {
    "arena-bench": 150,
    "autoj-pairwise": 500,
    "hhh-alignment": 500,
    "pandalm": 150,
    "prm800k-steps": 150,
    "tulu-human-eval": 150,
    "ukp-arguments": 300,
}
RESAMPLES = 2000
BINS = (0.0, 1.0, 2.0, 4.0, 8.0, float("inf"))
Conversation = tuple[tuple[str, str], ...]


def conversation(item: Pair, answer: str) -> Conversation:
    """A prompt and one response to it."""
    return (*item.prompt, ("assistant", answer))


class Scorer:
    """Raw rewards of every member, in float32, with token lengths; remembered by text."""

    def __init__(self, folders: list[Path]) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folders[0])
        self.models = [
            AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
            for folder in folders
        ]
        self.tokens: dict[Conversation, list[int]] = {}
        self.rewards: dict[Conversation, np.ndarray] = {}

    def length(self, item: Pair) -> int:
        """Tokens of the longer of the two conversations."""
        found = 0
        for answer in (item.chosen, item.rejected):
            key = conversation(item, answer)
            if key not in self.tokens:
                messages = [{"role": role, "content": content} for role, content in key]
                self.tokens[key] = self.tokenizer.apply_chat_template(messages)["input_ids"]
            found = max(found, len(self.tokens[key]))
        return found

    def score(self, model: PreTrainedModel, batches: list[list[Conversation]]) -> list[float]:
        """Raw rewards of one member, batch after batch, on one thread."""
        torch.set_num_threads(1)
        found: list[float] = []
        with torch.inference_mode():
            for batch in batches:
                inputs = self.tokenizer.pad(
                    {"input_ids": [self.tokens[key] for key in batch]}, return_tensors="pt"
                )
                found += model(**inputs).logits[:, 0].tolist()
        return found

    def margins(self, items: list[Pair]) -> np.ndarray:
        """Per member and pair: reward of the chosen response less that of the rejected one."""
        both = [
            (conversation(item, item.chosen), conversation(item, item.rejected)) for item in items
        ]
        missing = sorted(
            {key for keys in both for key in keys} - self.rewards.keys(),
            key=lambda key: (len(self.tokens[key]), key),
        )
        batches = []
        rest = missing
        while rest:
            size = max(1, BATCH_TOKENS // len(self.tokens[rest[-1]]))
            rest, batch = rest[:-size], rest[-size:]
            batches.append(batch)
        with ThreadPoolExecutor() as pool:
            rewards = list(pool.map(partial(self.score, batches=batches), self.models))
        keys = [key for batch in batches for key in batch]
        self.rewards.update(zip(keys, np.array(rewards).T, strict=True))
        return np.array([self.rewards[one] - self.rewards[two] for one, two in both]).T


def wins(margins: np.ndarray) -> np.ndarray:
    """1 for a pair in the right order, one half for a tie."""
    return (margins > 0) + 0.5 * (margins == 0)


def interval(values: np.ndarray, groups: list[str]) -> list[float]:
    """A 95 % percentile bootstrap interval of the mean, resampling prompts."""
    names, index = np.unique(groups, return_inverse=True)
    total = np.bincount(index, weights=values)
    count = np.bincount(index)
    draws = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    means = total[draws].sum(1) / count[draws].sum(1)
    return [round(float(value), 4) for value in np.quantile(means, (0.025, 0.975))]


def accuracy(values: np.ndarray, groups: list[str]) -> dict:
    """A share of pairs with its interval."""
    return {"accuracy": round(float(values.mean()), 4), "interval": interval(values, groups)}


def table(
    items: list[Pair], scorer: Scorer, bag: Callable[[list[Pair]], np.ndarray], names: list[str]
) -> dict:
    """Accuracy of every method on some pairs."""
    groups = [item.group for item in items]
    margins = scorer.margins(items)
    tokens = [
        len(scorer.tokenizer(item.chosen)["input_ids"])
        - len(scorer.tokenizer(item.rejected)["input_ids"])
        for item in items
    ]
    methods = {name: wins(margin) for name, margin in zip(names, margins, strict=True)}
    methods["ensemble"] = wins(margins.mean(0))
    methods["longer_wins"] = np.array([longer_wins(item) for item in items])
    methods["longer_wins_tokens"] = wins(np.array(tokens))
    methods["bag_of_words"] = wins(bag(items))
    return {
        "pairs": len(items),
        "prompts": len(set(groups)),
        **{name: accuracy(values, groups) for name, values in methods.items()},
    }


def certainty(items: list[Pair], margins: np.ndarray) -> dict:
    """The ensemble's accuracy by agreement of the members and by margin over its spread."""
    groups = np.array([item.group for item in items])
    mean, spread = margins.mean(0), margins.std(0)
    right = wins(mean)
    agreement = (np.sign(margins) == np.sign(mean)).mean(0)
    ratio = np.abs(mean) / np.maximum(spread, 1e-12)
    by_agreement = []
    for share in sorted(set(agreement.round(4)), reverse=True):
        kept = agreement.round(4) == share
        by_agreement.append(
            {
                "agreement": float(share),
                "pairs": int(kept.sum()),
                **accuracy(right[kept], list(groups[kept])),
            }
        )
    by_ratio = []
    for low, high in itertools.pairwise(BINS):
        kept = (ratio >= low) & (ratio < high)
        if kept.any():
            by_ratio.append(
                {
                    "from": low,
                    "to": high if high < 1e9 else None,
                    "pairs": int(kept.sum()),
                    **accuracy(right[kept], list(groups[kept])),
                }
            )
    return {"agreement": by_agreement, "margin_over_std": by_ratio}


def lengths(items: list[Pair], scorer: Scorer, names: list[str]) -> tuple[dict, dict]:
    """Spearman correlation of reward and length in tokens; mean and deviation of rewards."""
    answers = sorted(
        {conversation(item, answer) for item in items for answer in (item.chosen, item.rejected)}
    )
    tokens = [len(scorer.tokenizer(answer[-1][1])["input_ids"]) for answer in answers]
    rewards = np.array([scorer.rewards[answer] for answer in answers]).T
    columns = {**dict(zip(names, rewards, strict=True)), "ensemble": rewards.mean(0)}
    correlation = {
        name: round(float(spearmanr(values, tokens).statistic), 4)
        for name, values in columns.items()
    }
    statistics = {
        name: {"mean": round(float(values.mean()), 6), "std": round(float(values.std()), 6)}
        for name, values in columns.items()
    }
    return {"responses": len(answers), "spearman": correlation}, statistics


def main() -> None:
    """Measure the members of a folder; write evaluation.json into it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the sources")
    parser.add_argument("--models", type=Path, required=True, help="folder of the members")
    parser.add_argument("--members", nargs="+", default=["member-1", "member-2", "member-3"])
    options = parser.parse_args()
    names = options.members
    scorer = Scorer([options.models / name for name in names])
    items = read(options.data, (*READERS, judges))
    train = training(items)
    bag = fit(train).margins
    everything = held_out(items)
    kept = [item for item in everything if scorer.length(item) <= LIMIT]
    even = balanced(kept)
    result: dict = {
        "seed_of_split": SALT,
        "max_tokens": LIMIT,
        "held_out_pairs_over_max_tokens": len(everything) - len(kept),
        "training_pairs": {
            source: len(members) for source, members in sorted(by_source(train).items())
        },
        "held-out": table(kept, scorer, bag, names),
        "held-out, length-balanced": table(even, scorer, bag, names),
    }
    seen = {item.group for item in train}
    for title, part in (("per_source", kept), ("per_source_length_balanced", even)):
        result[title] = {
            source: table(members, scorer, bag, names)
            for source, members in sorted(by_source(part).items())
        }
    result["out_of_distribution"] = {}
    for source, members in sorted(by_source(items).items()):
        if source in BEYOND:
            unseen = [item for item in members if item.group not in seen][: BEYOND[source]]
            unseen = [item for item in unseen if scorer.length(item) <= LIMIT]
            result["out_of_distribution"][source] = table(unseen, scorer, bag, names)
    for title, part in (("uncertainty", kept), ("uncertainty_length_balanced", even)):
        result[title] = certainty(part, scorer.margins(part))
    result["length"], result["statistics"] = lengths(kept, scorer, names)
    result["versions"] = {
        name: version(name)
        for name in (
            "torch",
            "transformers",
            "trl",
            "datasets",
            "accelerate",
            "tokenizers",
            "scikit-learn",
            "scipy",
            "numpy",
        )
    }
    path = options.models / "evaluation.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for title in ("held-out", "held-out, length-balanced"):
        print(
            title,
            {
                name: value["accuracy"] if isinstance(value, dict) else value
                for name, value in result[title].items()
            },
        )


if __name__ == "__main__":
    main()
