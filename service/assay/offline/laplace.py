"""A Laplace approximation of a reward model's last layer, fitted to pairs.

With φ the numbers that the last linear layer takes, z = φ_chosen − φ_rejected and σ the
Bradley-Terry probability, the posterior's precision is H = λI + Σ σ'(margin) z zᵀ, as in rewarduq
(Yang et al. 2602.24040). A score's standard deviation is √(φᵀ H⁻¹ φ) = |C⁻¹ φ| with H = C Cᵀ: a
linear layer and a norm, which are served as one more head. Only here: how that head is fitted, and
written beside the card.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w
from pydantic import ValidationError
from safetensors.numpy import save

from assay import toml_file, validation, wire
from assay.bulk import source
from assay.cards import adapter, headers, stored_numbers
from assay.cards import card as cards
from assay.cards.mechanism import Head, Linear, Norm, Scale
from assay.cards.uncertainty import Spread
from assay.errors import CheckpointError, MalformedBody
from assay.scoring import items
from assay.scoring.scorer import Scorer
from assay.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from assay.cards.repository import Found
    from assay.settings import Settings
    from assay.worker_protocol import Loaded, Progress

FILE_NAME = "laplace.safetensors"
LEAST_PAIRS = 50
MOST_PAIRS = 1_000_000
_FACTOR = "laplace.factor"
_PROBE = "probe"
_PAIRS = 64  # that are scored at a time
_STOCK = "score.weight"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was fitted: pairs, and the mean standard deviation of their responses' scores."""

    pairs: int
    mean_std: float


async def fit(
    found: Found,
    file: Path,
    settings: Settings,
    *,
    precision: float = 1.0,
    on_progress: Callable[[str, Progress | Loaded], None] | None = None,
) -> Fitted:
    """Fit the last layer's posterior to a file of pairs, and write it beside the checkpoint.

    Raises:
        CheckpointError: The checkpoint has no last layer of one number, or can't be written.
        MalformedBody: A line is no pair, or there are too few; names the line.
        AssayError: The model can't be loaded, or an item can't be scored.
    """
    layers = _below_last(found)
    _check_writable(found)
    pairs = list(_pairs(file))
    if len(pairs) < LEAST_PAIRS:
        raise MalformedBody(f"{file} has {len(pairs)} pairs; a fit needs at least {LEAST_PAIRS}")
    with tempfile.TemporaryDirectory(prefix="assay-laplace-") as folder:
        probing = _probing(found, layers, settings, Path(folder))
        async with Scorer(
            probing, Metrics(), on_progress=on_progress, is_calibrated=False
        ) as scorer:
            await scorer.served.ready()
            hessian, read = await _read(scorer, pairs, precision)
    factor = np.linalg.inv(np.linalg.cholesky(hessian))
    _write(found, layers, factor)
    return Fitted(len(pairs), float(np.linalg.norm(read @ factor.T, axis=1).mean()))


def hessian_of(z: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Return Σ σ'(margin) z zᵀ of differences (pairs, hidden) and margins (pairs,)."""
    chosen = 1.0 / (1.0 + np.exp(-np.abs(margins)))
    hessian: np.ndarray = (z * (chosen * (1.0 - chosen))[:, None]).T @ z
    return hessian


async def _read(
    scorer: Scorer, pairs: Sequence[wire.Comparison], precision: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return H, and what the last layer takes of the last responses that were read."""
    hessian: np.ndarray | None = None
    read = np.empty((0, 0))
    for begin in range(0, len(pairs), _PAIRS):
        part = pairs[begin : begin + _PAIRS]
        groups = [(pair.prompt, pair.candidates()) for pair in part]
        sources = items.sources(groups, items.each_inputs(wire.Options(), part))
        outcome = await scorer.score(scorer.target(None), sources, is_batch=True)
        for place, scored in enumerate(outcome.items):
            if scored.error is not None:
                number = begin + place // 2 + 1
                raise MalformedBody(f"pair {number} can't be scored: {scored.error.message}")
        numbers = np.stack([scored.numbers[0][-1] for scored in outcome.items if scored.numbers])
        rewards, read = numbers[:, 0].astype(float), numbers[:, 1:].astype(float)
        if hessian is None:
            hessian = precision * np.eye(read.shape[1])
        hessian += hessian_of(read[0::2] - read[1::2], rewards[0::2] - rewards[1::2])
    if hessian is None:
        raise MalformedBody("there are no pairs")
    return hessian, read


def _pairs(file: Path) -> Iterator[wire.Comparison]:
    """Yield the pairs of a file of lines with `prompt`, `chosen` and `rejected`."""
    for count, (number, line) in enumerate(source.lines(file)):
        if count == MOST_PAIRS:
            raise MalformedBody(f"{file} has over {MOST_PAIRS} pairs")
        try:
            pair = wire.Comparison.model_validate(line)
        except ValidationError as error:
            location, said = validation.first(error, wire.Comparison)
            where = ".".join(map(str, location))
            raise MalformedBody(f"line {number}: {where}{': ' if where else ''}{said}") from error
        texts = pair.candidates()
        if len(texts) != 2:
            raise MalformedBody(f"line {number} has {len(texts)} responses; a pair has two")
        if texts[0] == texts[1]:
            raise MalformedBody(f"line {number}: both responses are the same text")
        yield pair


def _below_last(found: Found) -> list[Any]:
    """Return the layers below the last one, which gives the score.

    Raises:
        CheckpointError: There is none such, or its tensors can't be taken along.
    """
    card, folder = found.card, found.folder
    _check_kind(found)
    if not card.has_reward_head:
        tensors = headers.tensors(folder)
        if _STOCK not in tensors or tensors[_STOCK].shape[0] != 1:
            raise CheckpointError(f"{folder} has no last layer '{_STOCK}' of one number")
        return []
    head = card.heads["reward"]
    last = head.layers[-1]
    if not isinstance(last, Linear) or last.groups > 1 or head.joined > 1 or head.read:
        raise CheckpointError(f"{folder}: the head 'reward' doesn't end in a linear layer")
    if head.file is not None and not head.file.endswith(".safetensors"):
        raise CheckpointError(f"{folder}: {head.file} is a pickle; convert it to .safetensors")
    unlike = [layer.op for layer in head.layers[:-1] if layer.op in ("vocabulary", "linear_each")]
    if unlike:
        raise CheckpointError(f"{folder}: a layer of '{unlike[0]}' stands below the last one")
    return list(head.layers[:-1])


def _check_kind(found: Found) -> None:
    """Refuse what isn't one model with one number of its own for one response."""
    card, folder = found.card, found.folder
    if found.doubts:
        raise CheckpointError(f"{folder} looks like {found.family}, but: {'; '.join(found.doubts)}")
    if card.folders or card.policy or card.preference or card.steps:
        raise CheckpointError(f"{folder} isn't one model with one score for one response")
    if adapter.is_adapter(folder):
        raise CheckpointError(f"{folder} is an adapter; merge it into its base before the fit")
    if card.spread is not None and card.spread.kind != "laplace":
        raise CheckpointError(f"{folder} says itself how sure it is: its card has a [spread]")
    is_one_number = card.score.rule == "index" and len(card.score.outputs) < 2
    if not is_one_number or card.score.transform == "sigmoid":
        raise CheckpointError(f"{folder}: the score isn't the one number of a last linear layer")


def _check_writable(found: Found) -> None:
    """Refuse a folder that isn't the operator's own, or has another card than the one in use."""
    folder = found.folder
    if (folder / cards.FILE_NAME).is_file():
        there = cards.read(folder)
        if (there.heads, there.score, there.template) != (
            found.card.heads,
            found.card.score,
            found.card.template,
        ):
            raise CheckpointError(f"{folder}/{cards.FILE_NAME} is another card than the one named")
    is_cached = any(part.startswith("models--") for part in folder.parts)
    if is_cached or not os.access(folder, os.W_OK):
        raise CheckpointError(
            f"{folder} {'is in the cache of the hub' if is_cached else 'cannot be written'}; copy "
            "the checkpoint to a folder of your own"
        )


def _probing(found: Found, layers: list[Any], settings: Settings, folder: Path) -> Settings:
    """Return settings that serve the checkpoint with what its last layer takes beside its score.

    By a card of a repository of its own: nothing is written into the checkpoint's folder yet.
    """
    taken = Head(layers=layers or [Scale(op="scale", factor=1.0)], file=_file(found))
    card = found.card.model_copy(
        update={
            "family": None,  # what the family keeps in config.json is in the card already
            "heads": {**found.card.heads, "spread": taken},
            "spread": Spread(kind="quantiles"),
        }
    )
    (folder / _PROBE).mkdir()
    (folder / _PROBE / cards.FILE_NAME).write_text(_toml(card), encoding="utf-8")
    return settings.model_copy(
        update={
            "models": (f"{_PROBE}={found.folder.resolve()}",),
            "names": {},
            "repository": folder,
            "ensembles": {},
            "composites": {},
            "aliases": {},
            "remotes": {},
            "calibrations": {},
            "prefix_cache_mb": 0,
        }
    )


def _file(found: Found) -> str | None:
    """Return the file that the reward's head is in; None for the trunk's."""
    return found.card.heads["reward"].file if found.card.has_reward_head else None


def _write(found: Found, layers: list[Any], factor: np.ndarray) -> None:
    """Write the factor, and a card that names it, each in one step; the card last."""
    tensors = {_FACTOR: factor.astype(np.float32), **_taken_along(found, layers)}
    _replace(found.folder / FILE_NAME, save(tensors))
    norm = [Linear(op="linear", weight=_FACTOR), Norm(op="norm")]
    head = Head(layers=[*layers, *norm], file=FILE_NAME)
    card = found.card.model_copy(
        update={"heads": {**found.card.heads, "spread": head}, "spread": Spread(kind="laplace")}
    )
    path = found.folder / cards.FILE_NAME
    _replace(path, _with_spread(path, card, head).encode())
    cards.read(found.folder)


def _with_spread(path: Path, card: cards.Card, head: Head) -> str:
    """Return the card's text: as it was written, with the two tables behind it, if that holds."""
    if not path.is_file():
        return _toml(card)
    text = path.read_text(encoding="utf-8")
    said = head.model_dump(mode="json", exclude_defaults=True)
    added = tomli_w.dumps({"heads": {"spread": said}, "spread": {"kind": "laplace"}})
    try:
        whole = f"{text.rstrip()}\n\n{added}".lstrip()
        toml_file.parsed(whole)
    except ValueError:  # there is one already, or [heads] is written in one line
        return _toml(card)
    return whole


def _taken_along(found: Found, layers: list[Any]) -> dict[str, np.ndarray]:
    """Return the tensors that the layers below the last one name, for the head's own file."""
    names = {
        getattr(layer, field)
        for layer in layers
        for field in ("weight", "bias", "mean", "var", "factor")
        if isinstance(getattr(layer, field, None), str)
    } | {
        f"{layer.name}.{part}"
        for layer in layers
        if layer.op == "batch_norm"
        for part in ("weight", "bias", "running_mean", "running_var")
    }
    file = _file(found)
    tensors = (
        headers.tensors(found.folder) if file is None else headers.in_files([found.folder / file])
    )
    return {name: _float32(tensors[name].file, name) for name in sorted(names)}


def _float32(file: Path, name: str) -> np.ndarray:
    place = stored_numbers.places(file)[name]
    kind = stored_numbers.KINDS[place.dtype]
    pieces = [
        stored_numbers.floats(piece, place.dtype) for piece in stored_numbers.pieces(place, kind)
    ]
    return np.concatenate(pieces).astype(np.float32).reshape(place.shape)


def _replace(path: Path, content: bytes) -> None:
    written = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        written.write_bytes(content)
        written.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        written.unlink(missing_ok=True)


def _toml(card: cards.Card) -> str:
    return tomli_w.dumps(card.model_dump(mode="json", exclude_defaults=True, exclude_none=True))
