"""TRL's own GRPOTrainer with rewards of a server: what it logs is what the server says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.guides import policy
from tests.guides.conftest import scores

if TYPE_CHECKING:
    from pathlib import Path

    from tests.guides.conftest import RunExample
    from tests.http.processes import Server

STEPS = 2
COMPLETIONS = 8  # a step: two prompts, four times each


@pytest.mark.parametrize("flags", [(), ("--asynchronous",)], ids=["sync", "async"])
def test_the_logged_rewards_are_the_servers(
    server: Server, run_example: RunExample, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """Of each completion, and in the mean that the trainer states for a step."""
    made = policy.build(tmp_path / "policy")

    logged = run_example("trl_grpo.py", "--policy", str(made), *flags)

    rows = logged["completions"]
    expected = scores(server, [{"messages": row["prompt"] + row["completion"]} for row in rows])
    assert [row["assay"] for row in rows] == expected
    assert len(rows) == STEPS * COMPLETIONS
    assert len(set(expected)) > COMPLETIONS
    assert logged["means"] == [
        torch.tensor(expected[start : start + COMPLETIONS]).mean().item()
        for start in range(0, len(rows), COMPLETIONS)
    ]
