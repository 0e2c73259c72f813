"""Divide pairs by prompt into a training and a held-out part, by hash alone."""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pairs import Pair, fraction, read

if TYPE_CHECKING:
    from collections.abc import Iterable

HELD_OUT = 0.2
SALT = "assay-starter"
Part = tuple[float, float]
ALL: Part = (0.0, 1.0)


@dataclass(frozen=True)
class Share:
    """How many pairs of a source a member trains on, and how many a held-out group may give."""

    quota: int
    per_group: int


MIXTURE = {
    "hh-harmless": Share(2000, 20),
    "grade-school-math": Share(2000, 20),
    "themis-calculator": Share(900, 20),
    "themis-code": Share(600, 20),
    "themis-hh_rlhf": Share(500, 20),
    "xstest": Share(900, 20),
}


def is_held_out(group: str) -> bool:
    """Whether a prompt, problem, opening or debate is on the held-out side."""
    return fraction(f"{SALT} {group}") < HELD_OUT


def is_trained_on(group: str, part: Part = ALL) -> bool:
    """Whether it is on the training side, and in a part of it by a hash of its own."""
    return not is_held_out(group) and part[0] <= fraction(f"{SALT} part {group}") < part[1]


def longer_wins(item: Pair) -> float:
    """1 when the chosen response has more characters, 0 when fewer, one half when equal."""
    chosen, rejected = len(item.chosen), len(item.rejected)
    return 0.5 if chosen == rejected else float(chosen > rejected)


def by_source(items: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Pairs of each source, in a fixed pseudo-random order."""
    found: dict[str, list[Pair]] = defaultdict(list)
    for item in sorted(items, key=lambda item: fraction(f"{SALT} {item.id}")):
        found[item.source].append(item)
    return dict(found)


def training(items: Iterable[Pair], part: Part = ALL) -> list[Pair]:
    """The pairs of the mixture on the training side, or of a part of its prompts."""
    return [item for item in items if item.source in MIXTURE and is_trained_on(item.group, part)]


def held_out(items: Iterable[Pair], part: Part = ALL) -> list[Pair]:
    """The pairs of the mixture that aren't trained on, at most so many a group; not balanced."""
    found = []
    for source, members in by_source(items).items():
        if source not in MIXTURE:
            continue
        counts: dict[str, int] = defaultdict(int)
        for item in members:
            if (
                not is_trained_on(item.group, part)
                and counts[item.group] < MIXTURE[source].per_group
            ):
                counts[item.group] += 1
                found.append(item)
    return found


def balanced(items: Iterable[Pair]) -> list[Pair]:
    """A subsample in which the longer response is chosen in half of each source's pairs."""
    found = []
    for members in by_source(items).values():
        longer = [item for item in members if longer_wins(item) == 1]
        shorter = [item for item in members if longer_wins(item) == 0]
        count = min(len(longer), len(shorter))
        found += longer[:count] + shorter[:count]
    return found


def sample(
    items: Iterable[Pair], seed: int, share: float = 1.0, sources: Iterable[str] = tuple(MIXTURE)
) -> list[Pair]:
    """One member's pairs: a bootstrap of prompts, then each source's quota, length-balanced.

    `share` is that of each quota.
    """
    chance = random.Random(seed)  # noqa: S311 (no secret)
    found = []
    for source, members in sorted(by_source(items).items()):
        if source not in sources:
            continue
        prompts: dict[tuple[tuple[str, str], ...], list[Pair]] = defaultdict(list)
        for item in members:
            prompts[item.prompt].append(item)
        names = sorted(prompts)
        drawn = [item for name in chance.choices(names, k=len(names)) for item in prompts[name]]
        for wanted in (0.0, 1.0):
            side = [item for item in drawn if longer_wins(item) == wanted]
            half = int(MIXTURE[source].quota * share) // 2
            if len(side) >= half:
                found += chance.sample(side, half)
            else:
                found += side + chance.choices(side, k=half - len(side))
    chance.shuffle(found)
    return found


def write(items: Iterable[Pair], path: Path) -> None:
    """Write pairs as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for item in items:
            row = {
                "id": item.id,
                "prompt": item.messages(),
                "chosen": item.chosen,
                "rejected": item.rejected,
                "source": item.source,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main() -> None:
    """Write the held-out pairs and their length-balanced half."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the sources")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--part", type=float, nargs=2, default=ALL, help="as train.py's")
    parser.add_argument("--sources", nargs="+", default=list(MIXTURE), choices=list(MIXTURE))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = held_out(read(options.data), options.part)
    kept = [item for item in kept if item.source in options.sources]
    write(kept, options.out / "heldout.jsonl")
    write(balanced(kept), options.out / "heldout_balanced.jsonl")


if __name__ == "__main__":
    main()
