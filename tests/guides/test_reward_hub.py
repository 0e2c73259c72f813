"""reward_hub's client of served process reward models, and the adapter in its stead."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.guides.conftest import MATH, natively, scores

if TYPE_CHECKING:
    from pathlib import Path

    from tests.guides.conftest import RunExample
    from tests.http.processes import Server

QUESTION = "What is 6 * 7?"
STEPS = ["6 * 7 is 6 + 6 + ... + 6.", "That is 42."]
REVISION = "0" * 40


def cached(checkpoint: Path, home: Path) -> Path:
    """Put a checkpoint's tokenizer where reward_hub loads it from, and return that cache."""
    folder = home / "hub" / f"models--{MATH.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(REVISION)
    snapshot = folder / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    for path in checkpoint.iterdir():
        if path.name not in {"model.safetensors", "card.toml"}:
            shutil.copy(path, snapshot / path.name)
    return home


def test_its_steps_are_the_native_ones(
    server: Server, families: dict[str, Path], run_example: RunExample, tmp_path: Path
) -> None:
    """By its own process reward model and by the adapter; its HTTP client pools anything."""
    (entry,) = natively(server, [{"prompt": QUESTION, "steps": STEPS}], model="math")
    turns = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "\n\n".join(STEPS)},
    ]
    pooled = scores(server, [{"messages": turns}])

    answer = run_example(
        "score_with_reward_hub.py", HF_HOME=str(cached(families["math"], tmp_path / "home"))
    )

    steps = entry["steps"]
    assert answer == {"steps": steps, "min": min(steps), "pooled": pooled, "adapter": steps}
