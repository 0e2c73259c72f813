"""The server that is attacked: every kind of target, with keys, and little patience."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.served import every_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.processes import Server

KEY, ADMIN_KEY = "the-scoring-key", "the-admin-key"
PATIENCE_S = 1.5


@pytest.fixture(scope="session")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that its tests leave as they found it."""
    with every_kind(
        tmp_path_factory.mktemp("attacked"),
        key=KEY,
        api_key=KEY,
        admin_key=ADMIN_KEY,
        unauthorized_per_minute="inf",
        body_timeout_s=PATIENCE_S,
        write_timeout_s=PATIENCE_S,
    ) as server:
        yield server
