"""Prompts and responses to score: generated, or read from a file.

Generated words are made of syllables, so that nothing has to be fetched; the numbers of words are
those of arena-bench's prompts and responses. Not real language: a tokenizer trained on other text
cuts these words into more pieces; give `--pairs` for real text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

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


class Texts(Protocol):
    """Where a workload's text comes from. Sets of different numbers share no text."""

    def random(self, number: int) -> np.random.Generator:
        """Return the source of chance of the `number`-th set."""
        ...

    def take(self, number: int, count: int) -> list[Pair]:
        """Return `count` pairs of arena-bench's lengths, no two with one prompt."""
        ...

    def groups(self, number: int, prompts: int, responses: int) -> list[list[Pair]]:
        """Return `prompts` groups of `responses` pairs with one prompt, arena-bench's lengths."""
        ...

    def text(self, random: np.random.Generator, words: int) -> str:
        """Return so many words."""
        ...


class Generated:
    """Fresh pairs from a seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lexicon = _lexicon()
        self._shares = np.cumsum(1 / np.arange(10, 10 + len(self._lexicon)))
        self._shares /= self._shares[-1]

    def random(self, number: int) -> np.random.Generator:
        """Return the same source whenever the same number is asked for."""
        return np.random.default_rng((self._seed, number))

    def take(self, number: int, count: int) -> list[Pair]:
        """Return the `number`-th set of `count` pairs; the same set whenever it is asked for."""
        return [pair for (pair,) in self.groups(number, count, 1)]

    def groups(self, number: int, prompts: int, responses: int) -> list[list[Pair]]:
        """Return the `number`-th set of groups; the same set whenever it is asked for."""
        random = self.random(number)
        prompt_words = random.permutation(_lengths(random, PROMPT_WORDS, prompts))
        lengths = random.permutation(_lengths(random, RESPONSE_WORDS, prompts * responses))
        drawn = []
        for words, own in zip(prompt_words, lengths.reshape(prompts, responses), strict=True):
            prompt = self.text(random, int(words))
            drawn.append([Pair(prompt, self.text(random, int(length))) for length in own])
        return drawn

    def pair(self, random: np.random.Generator, prompt_words: int, response_words: int) -> Pair:
        """Return one pair of these lengths."""
        return Pair(self.text(random, prompt_words), self.text(random, response_words))

    def text(self, random: np.random.Generator, words: int) -> str:
        """Return sentences of so many words in all."""
        places = np.searchsorted(self._shares, random.random(words), side="right")
        drawn = [self._lexicon[place] for place in places]
        sentences = [
            " ".join(drawn[start : start + _SENTENCE_WORDS]).capitalize() + "."
            for start in range(0, words, _SENTENCE_WORDS)
        ]
        return " ".join(sentences)


class Recorded:
    """Pairs of a JSONL file; within a set no two groups share a prompt, and no pair is sent twice.

    A line is {"prompt", "response"}, or {"prompt", "chosen", "rejected"}, which gives two pairs.
    """

    def __init__(self, file: Path, seed: int) -> None:
        self._file = file
        self._seed = seed
        by_prompt: dict[str, list[Pair]] = {}
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for side in ("response", "chosen", "rejected"):
                if side in row:
                    pairs = by_prompt.setdefault(row["prompt"], [])
                    pairs.append(Pair(row["prompt"], row[side]))
        self._by_prompt = by_prompt
        self._unused = list(by_prompt)
        np.random.default_rng(seed).shuffle(self._unused)
        self._sets: dict[tuple[int, int, int], list[list[Pair]]] = {}
        self._words = " ".join(pair.response for one in by_prompt.values() for pair in one).split()

    def random(self, number: int) -> np.random.Generator:
        """Return the same source whenever the same number is asked for."""
        return np.random.default_rng((self._seed, number))

    def take(self, number: int, count: int) -> list[Pair]:
        """Return the `number`-th set of `count` pairs.

        Raises:
            SystemExit: The file has too few.
        """
        return [pair for (pair,) in self.groups(number, count, 1)]

    def groups(self, number: int, prompts: int, responses: int) -> list[list[Pair]]:
        """Return the `number`-th set of groups.

        Raises:
            SystemExit: The file has too few prompts with as many responses.
        """
        key = (number, prompts, responses)
        if key not in self._sets:
            self._sets[key] = self._draw(prompts, responses)
        return self._sets[key]

    def text(self, random: np.random.Generator, words: int) -> str:
        """Return consecutive words of the responses, from anywhere."""
        start = int(random.integers(max(1, len(self._words) - words)))
        return " ".join(self._words[start : start + words])

    def _draw(self, prompts: int, responses: int) -> list[list[Pair]]:
        """Take responses that no set had, of the prompts that were used longest ago."""
        able = [one for one in self._unused if len(self._by_prompt[one]) >= responses][:prompts]
        if len(able) < prompts:
            raise SystemExit(
                f"{self._file} has no {prompts} more prompts with {responses} unsent responses: "
                "lower --repetitions or --scale"
            )
        taken = set(able)
        self._unused = [one for one in self._unused if one not in taken] + able
        return [[self._by_prompt[one].pop() for _ in range(responses)] for one in able]


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
