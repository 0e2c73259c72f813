"""What the OpenAPI document says is what comes; `python -m tests.fuzz` sends many more requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.api.contracts import CONTRACTS
from assay.errors import InvalidField, Overloaded
from tests.fuzz import cases

if TYPE_CHECKING:
    from tests.http.processes import Server

CASES, SEED = 250, 20261122


def test_generated_requests_are_answered_as_documented(attacked: Server) -> None:
    """Right and wrong ones: no 500, no status or shape that the document doesn't have."""
    tally = cases.tried(attacked, CASES, SEED)

    assert not tally.failures, "\n\n".join(tally.failures[:5])
    assert tally.cases >= CASES
    assert tally.by_status()[200] >= CASES / 20
    assert {400, 404, 422} <= tally.by_status().keys()


def test_every_contracts_path_documents_its_own_errors(attacked: Server) -> None:
    """The statuses are those that the contract spells, not the native ones."""
    paths = attacked.http.get("/openapi.json").json()["paths"]

    for contract in CONTRACTS:
        for path in contract.paths:
            known = paths[path]["post"]["responses"]
            for error in (InvalidField("..."), Overloaded("...")):
                status, body = contract.problem(error, "...")
                shapes = known[str(status)]["content"]["application/json"]["schema"]["anyOf"]
                assert any(set(body) == set(one.get("required", ())) for one in shapes)


def test_a_native_path_under_v1_that_a_contract_shares_documents_both(attacked: Server) -> None:
    """A body that isn't the contract's is the native route's there, too."""
    words = attacked.http.get("/openapi.json").json()["paths"]["/v1/score"]["post"]

    assert words["responses"]["422"]["content"]["application/json"]["schema"] == {
        "anyOf": [{"$ref": "#/components/schemas/ErrorAnswer"}]
    }
    taken = words["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert {"$ref": "#/components/schemas/ScoreRequest"} in taken
    assert len(taken) == 3
