"""A model in eight bits, as callers and operators see it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.http.processes import serving
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.processes import Server


def test_a_quantized_model_says_so_and_scores_under_a_revision_of_its_own(
    narrow: Server, tiny: Path, tmp_path: Path
) -> None:
    """In the log, `/models`, the metrics; alone and among others with the same bits."""
    others = [{**PAIR, "response": word * 40} for word in ("no ", "maybe ", "why? ")]
    plain = narrow.score(inputs=PAIR, model="tiny").json()
    with serving(tmp_path / "run", tiny, quantize="int8") as server:
        alone = server.score(inputs=PAIR).json()
        among = server.score(inputs=[*others, PAIR]).json()
        (entry,) = server.http.get("/models").json()["data"]
        warned = re.findall(r" WARNING +assay\.start (.*)", server.log.read_text())
        is_stated = server.metric("assay_model_info", model="tiny", quantized="int8")

    assert (entry["quantized"], is_stated) == ("int8", 1)
    assert warned == [f"tiny: {said}" for said in entry["warnings"]]
    assert "tiny: its linear layers are rounded to int8: on " in warned[-1]
    assert alone["revision"] == entry["revision"] != plain["revision"]
    assert alone["data"][0]["score"] == among["data"][-1]["score"] != plain["data"][0]["score"]
