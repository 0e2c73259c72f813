"""Where a device process keeps what it compiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.http.processes import serving

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR")


@pytest.mark.parametrize("own", [None, "elsewhere"])
def test_what_is_compiled_is_kept_in_the_users_cache(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    """Before torch settles for a temporary folder; unless the operator names another place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        if own is not None:
            monkeypatch.setenv(name, own)

    with serving(tmp_path / "run", tiny, compile="off") as server:
        found = [server.worker.environ()[name] for name in NAMES]

    cache = tmp_path / "assay"
    assert found == [own or str(cache / "inductor"), own or str(cache / "extensions")]
