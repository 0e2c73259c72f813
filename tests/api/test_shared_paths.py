"""The table of paths that several contracts share."""

from __future__ import annotations

from fastapi.routing import APIRoute

from assay.api.contracts import CONTRACTS
from assay.api.contracts.shared_paths import SHARED
from assay.api.native import posted

OWN = {route.path for route in posted.routes if isinstance(route, APIRoute)}


def test_every_shared_path_says_whose_a_body_is() -> None:
    """Each of the contracts that have it stands in the table, and nobody else.

    One takes what bears no sign, or the native route does.
    """
    owners: dict[str, set[str]] = {}
    for contract in CONTRACTS:
        for path in contract.paths:
            owners.setdefault(path, set()).add(contract.route)
    own = OWN | {f"/v1{path}" for path in OWN}

    shared = {path: names for path, names in owners.items() if len(names) > 1 or path in own}

    assert {path: {name for name, _ in signs} for path, signs in SHARED.items()} == shared
    for path, signs in SHARED.items():
        assert [sign is None for _, sign in signs].count(True) == (path not in own)
        assert None not in [sign for _, sign in signs[:-1]]
