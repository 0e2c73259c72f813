"""The contracts that trainers and gateways speak already, one file each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from assay.api.contracts import (
    decisions,
    infinity,
    kserve,
    llama_factory,
    mixedbread,
    ms_swift,
    nemo_gym,
    nvidia,
    nvidia_ranking,
    oat,
    openrlhf,
    rerank,
    sglang,
    sglang_decisions,
    slime,
    systemone,
    tei,
    vllm,
    voyage,
)
from assay.api.contracts.shared_paths import SHARED, endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from assay.api.contracts.contract import Contract
    from assay.api.contracts.shared_paths import Endpoint, Sign
    from assay.api.request_context import Shape

CONTRACTS: tuple[Contract, ...] = (
    *openrlhf.CONTRACTS,
    *llama_factory.CONTRACTS,
    *slime.CONTRACTS,
    *tei.CONTRACTS,
    *infinity.CONTRACTS,
    *kserve.CONTRACTS,
    *nvidia.CONTRACTS,
    *nvidia_ranking.CONTRACTS,
    *mixedbread.CONTRACTS,
    *voyage.CONTRACTS,
    *ms_swift.CONTRACTS,
    *oat.CONTRACTS,
    *nemo_gym.CONTRACTS,
    *sglang.CONTRACTS,
    *rerank.CONTRACTS,
    *vllm.CONTRACTS,
    *systemone.CONTRACTS,
    *sglang_decisions.CONTRACTS,
    *decisions.CONTRACTS,
)


def posted(native: Mapping[str, Endpoint]) -> dict[str, Endpoint]:
    """Return what answers each path that is posted to, native paths included."""
    foreign = {
        path: endpoint(
            some,
            native.get(path),
            [contract for contract in CONTRACTS if path not in contract.paths],
        )
        for path, some in _by_path().items()
    }
    return {**native, **foreign}


def error_shapes(native: Iterable[str]) -> dict[str, Shape]:
    """Return how errors look at each path that isn't native too, where no body was read."""
    return {path: some[-1][0].problem for path, some in _by_path().items() if path not in native}


def routes(native: Iterable[str]) -> dict[str, str]:
    """Return what metrics call each path that is posted to, where no body was read."""
    foreign = {path: some[-1][0].route for path, some in _by_path().items()}
    return foreign | {path: path.rsplit("/", 1)[-1] for path in native}


def id_headers() -> dict[str, str]:
    """Return the header in which a path's clients look for the request's id, beside our own."""
    return {
        path: contract.id_header
        for contract in CONTRACTS
        if contract.id_header
        for path in contract.paths
    }


def fit(path: str) -> tuple[str, dict[str, str]]:
    """Return the path as contracts name it, and what stands for its parts like {model}."""
    for template, pattern in _TEMPLATED.items():
        if match := pattern.fullmatch(path):
            return template, match.groupdict()
    return path, {}


def _by_path() -> dict[str, list[tuple[Contract, Sign | None]]]:
    paths: dict[str, list[tuple[Contract, Sign | None]]] = {}
    for contract in CONTRACTS:
        for path in contract.paths:
            paths.setdefault(path, []).append((contract, None))
    for path, signs in SHARED.items():
        named = {contract.route: contract for contract, _ in paths[path]}
        paths[path] = [(named[route], sign) for route, sign in signs]
    return paths


_TEMPLATED = {  # what fits them: slashes, too
    path: re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+)", re.escape(path)))
    for path in sorted(_by_path(), key=len, reverse=True)  # the longer fits the shorter, too
    if "{" in path
}
