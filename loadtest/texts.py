"""Prompts and responses to score: generated, or read from a file.

Generated words are made of syllables, so that nothing has to be fetched; the numbers of words are
those of arena-bench's prompts and responses. Not real language: a tokenizer trained on other text
cuts these words into more pieces; give `--pairs` for real text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

# Words at these shares of arena-bench's texts; the shortest is set.
SHARES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
PROMPT_WORDS = (3, 13, 44, 138, 318, 482)
RESPONSE_WORDS = (3, 74, 248, 498, 718, 956)
LEXICON_WORDS = 8000
_ONSETS = [
    *"bcdfghlmnprstvw",
    "br",
    "ch",
    "cl",
    "dr",
    "fl",
    "gr",
    "pl",
    "pr",
    "sh",
    "st",
    "th",
    "tr",
]
_CORES = [*"aeiou", "ai", "ea", "ee", "ou", "io"]
_CODAS = [*[""] * 4, *"dklmnrst", "nd", "ng", "nt", "rs", "st"]
_SENTENCE_WORDS = 14


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and a response to it."""

    prompt: str
    response: str

    def item(self) -> dict[str, str]:
        """Return the pair as both servers take it."""
        return {"prompt": self.prompt, "response": self.response}


class Generated:
    """Fresh pairs from a seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lexicon = _lexicon()
        self._weights = 1 / np.arange(10, 10 + len(self._lexicon))
        self._weights /= self._weights.sum()

    def take(self, number: int, count: int) -> list[Pair]:
        """Return the `number`-th set of `count` pairs; the same set whenever it is asked for."""
        random = np.random.default_rng((self._seed, number))
        prompts, responses = (
            random.permutation(_lengths(random, words, count))
            for words in (PROMPT_WORDS, RESPONSE_WORDS)
        )
        return [
            self.pair(random, int(prompt), int(response))
            for prompt, response in zip(prompts, responses, strict=True)
        ]

    def pair(self, random: np.random.Generator, prompt_words: int, response_words: int) -> Pair:
        """Return one pair of these lengths."""
        return Pair(self._text(random, prompt_words), self._text(random, response_words))

    def _text(self, random: np.random.Generator, words: int) -> str:
        drawn = random.choice(self._lexicon, size=words, p=self._weights)
        sentences = [
            " ".join(drawn[start : start + _SENTENCE_WORDS]).capitalize() + "."
            for start in range(0, words, _SENTENCE_WORDS)
        ]
        return " ".join(sentences)


class Recorded:
    """Pairs of a JSONL file; within a set no two share a prompt, and no pair is sent twice.

    A line is {"prompt", "response"}, or {"prompt", "chosen", "rejected"}, which gives two pairs.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        by_prompt: dict[str, list[Pair]] = {}
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for side in ("response", "chosen", "rejected"):
                if side in row:
                    pairs = by_prompt.setdefault(row["prompt"], [])
                    pairs.append(Pair(row["prompt"], row[side]))
        self._pairs = list(by_prompt.values())

    def take(self, number: int, count: int) -> list[Pair]:
        """Return the `number`-th set of `count` pairs.

        Raises:
            SystemExit: The file has too few.
        """
        prompts = len(self._pairs)
        places = [divmod(place, prompts) for place in range(number * count, (number + 1) * count)]
        if count > prompts or any(turn >= len(self._pairs[one]) for turn, one in places):
            raise SystemExit(
                f"{self._file} has {prompts} distinct prompts and too few responses for set "
                f"{number} of {count} pairs: lower --items or --repetitions"
            )
        return [self._pairs[one][turn] for turn, one in places]


def _lengths(random: np.random.Generator, words: tuple[int, ...], count: int) -> np.ndarray:
    """Return numbers of words, one from each of `count` equal slices of the distribution."""
    shares = (np.arange(count) + random.random(count)) / count
    return np.interp(shares, SHARES, words).round().astype(int)


def _lexicon() -> list[str]:
    """Return the words, common ones first and shorter: always the same."""
    random = np.random.default_rng(0)
    words: dict[str, None] = {}
    while len(words) < LEXICON_WORDS:
        syllables = 1 + int(random.random() * (1 + 2.5 * len(words) / LEXICON_WORDS))
        parts = (
            random.choice(part) for _ in range(syllables) for part in (_ONSETS, _CORES, _CODAS)
        )
        words["".join(parts)] = None
    return list(words)
