"""What is logged in this process can be seen, whatever a test before has set up."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Assay's log reach `caplog`."""
    monkeypatch.setattr(logging.getLogger("assay"), "propagate", True)
