"""Everything at once, for some seconds; `python -m loadtest chaos` goes on for ten minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loadtest import chaos, questions
from loadtest import server as servers

if TYPE_CHECKING:
    from pathlib import Path

PLAN = chaos.Plan(seconds=20, kill_every_s=9, reload_every_s=13, stop_at_s=3, watchdog_s=1)


@pytest.mark.timeout(600)  # a bound, not an expectation: five workers are started, one by one
def test_all_is_answered_rightly_while_everything_happens(tmp_path: Path) -> None:
    """Workers die, hang and are replaced, callers leave, bodies are bad: nothing is left behind."""
    models = questions.models(tmp_path)
    asked = questions.questions(questions.poison_id(models[0]))

    with servers.assay_of(models, **chaos.settings(PLAN)) as server:
        outcome = chaos.chaos(server, asked, PLAN, print)

    assert outcome.misses() == []
    assert outcome.outcomes["right"]
    assert outcome.outcomes["left"]
