"""Write the questions and answers of arena-bench as pairs for `--pairs`.

    python -m loadtest.arena --data DIR --out pairs.jsonl

DIR is `data/arena-bench-v1` of lm-sys/arena-hard-auto (Apache-2.0).
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_CHARACTERS = 10_000  # one answer has 121,525 characters in 61 words


def main() -> None:
    """Write one line a pair, model after model."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.arena", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    questions = {
        row["question_id"]: row["turns"][0] for row in rows(arguments.data / "question.jsonl.gz")
    }
    with arguments.out.open("w", encoding="utf-8") as out:
        for file in sorted((arguments.data / "model_answer").glob("*.jsonl.gz")):
            for row in rows(file):
                response = row["choices"][0]["turns"][0]
                if len(response) <= LONGEST_CHARACTERS:
                    pair = {"prompt": questions[row["question_id"]], "response": response}
                    out.write(json.dumps(pair, ensure_ascii=False) + "\n")


def rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a gzipped JSON lines file."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    main()
