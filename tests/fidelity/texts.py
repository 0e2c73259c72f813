"""Items to compare on: generated for the tests, or read from a JSONL file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from assay.cards.catalogue import embedded
from assay.items import Conversation, TokenizedItem
from assay.prompts.template import Template

if TYPE_CHECKING:
    from pathlib import Path

WORDS = (
    "the model answers because evidence suggests that water boils sooner on a mountain and "
    "pressure falls with height so cooks wait longer for rice beans or eggs while bakers change "
    "their flour in 2024 £5 naïve café 東京 λ→μ def f(x): return x**2 however, maybe not; yes!"
).split()
MAX_TOKENS = 1000


def template() -> Template:
    """Return the starter's tokenizer and chat template."""
    return Template(embedded() / "starter" / "member-1", max_tokens=MAX_TOKENS)


def vocabulary() -> int:
    """Return how many ids the tokenizer may give."""
    config = json.loads((embedded() / "starter" / "member-1" / "config.json").read_text())
    return int(config["vocab_size"])


def generated(count: int, *, longest_words: int = 120, seed: int = 0) -> list[np.ndarray]:
    """Return the ids of conversations of random words and very different lengths."""
    random = np.random.default_rng(seed)
    talks = []
    for _ in range(count):
        sizes = (longest_words ** random.random(2)).astype(int)
        prompt, response = (" ".join(random.choice(WORDS, size)) for size in sizes)
        turns = ({"role": "user", "content": prompt}, {"role": "assistant", "content": response})
        talks.append(Conversation(turns))
    return _render(talks)


def read(file: Path, count: int) -> list[np.ndarray]:
    """Return the ids of the first items of a JSONL file."""
    talks: list[Conversation] = []
    with file.open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            asked = line["prompt"]
            if isinstance(asked, str):
                asked = [{"role": "user", "content": asked}]
            talks += [
                Conversation((*asked, {"role": "assistant", "content": line[name]}))
                for name in ("response", "chosen", "rejected")
                if name in line
            ]
            if len(talks) >= count:
                break
    return _render(talks[:count])


def _render(talks: list[Conversation]) -> list[np.ndarray]:
    rendered = template().render_all(talks, "response_end")
    return [one.ids for one in rendered if isinstance(one, TokenizedItem)]
