"""A card's heads: layers from hidden states to numbers, in float32.

Every tensor is the one the card names. `readout.Readout` gives a head the same number of rows at a
time, whatever the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from assay.cards import mechanism

if TYPE_CHECKING:
    from collections.abc import Callable

    Tensors = Callable[[str], torch.Tensor]
    Layer = Callable[[torch.Tensor], torch.Tensor]

VOCABULARY = "the output embedding"  # its tensor's name, whatever that is in the files
_ACTIVATIONS: dict[str, Layer] = {
    "relu": functional.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "selu": functional.selu,
    "leaky_relu": functional.leaky_relu,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
}


class Head:
    """The layers of one head; call with (rows, hidden) float32 for (rows, outputs)."""

    def __init__(self, card: mechanism.Head, tensors: Tensors) -> None:
        """Read the tensors that the card names; tokens are given as ids."""
        self.joined = card.joined
        self._layers = [_layer(layer, tensors) for layer in card.layers]

    def __call__(self, state: torch.Tensor) -> torch.Tensor:
        """Return (rows / joined, outputs)."""
        state = state.reshape(-1, self.joined * state.shape[1])
        for layer in self._layers:
            state = layer(state)
        return state


class VocabularyHead:
    """The log-probability of the token after each place, over a model's whole vocabulary."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight.float()  # (tokens, hidden)

    @property
    def size(self) -> int:
        """How many tokens it has."""
        return len(self._weight)

    def __call__(self, state: torch.Tensor, next_ids: torch.Tensor) -> torch.Tensor:
        """Return (rows, 1) of (rows, hidden) and (rows,) ids."""
        logits = state @ self._weight.T
        chosen = logits.gather(1, next_ids.long()[:, None])
        return chosen - logits.logsumexp(1, keepdim=True)


def _layer(  # noqa: C901, PLR0911, PLR0912  a case for each kind of layer
    card: mechanism.Layer, tensors: Tensors
) -> Layer:
    match card:
        case mechanism.Linear():
            weight = tensors(card.weight)
            weight = weight.T.contiguous() if card.transposed else weight
            linear = _Linear(weight, tensors(card.bias) if card.bias else None)
            return linear if card.groups == 1 else _Across(linear, card.groups)
        case mechanism.LinearEach():
            return _LinearEach(tensors(card.weight), tensors(card.bias) if card.bias else None)
        case mechanism.Activation():
            return _ACTIVATIONS[card.op]
        case mechanism.Softmax():
            return lambda x: _in_parts(x / card.temperature, -1, card.groups).softmax(-1).flatten(1)
        case mechanism.BatchNorm():
            spread = (tensors(f"{card.name}.running_var") + card.eps).sqrt()
            factor = tensors(f"{card.name}.weight") / spread
            shift = tensors(f"{card.name}.bias") - tensors(f"{card.name}.running_mean") * factor
            return lambda x: x * factor + shift
        case mechanism.Standardize():
            spread = tensors(card.var).sqrt() + card.eps
            mean = tensors(card.mean) if card.mean else torch.zeros_like(spread)
            return lambda x: (x - mean) / spread
        case mechanism.Scale():
            by = tensors(card.factor) if isinstance(card.factor, str) else card.factor
            return lambda x: x * by
        case mechanism.Mean():
            return lambda x: _in_parts(x, -1, card.groups).mean(-1)
        case mechanism.Take():
            return lambda x: x[:, card.places]
        case mechanism.Expected():
            return _Expected(card)
        case mechanism.Deviation():
            return _Deviation(card)
        case mechanism.Normalize():
            return lambda x: functional.normalize(x, dim=1)
        case mechanism.Norm():
            return lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True)
        case mechanism.Vocabulary():
            return _Linear(tensors(VOCABULARY)[[int(token) for token in card.tokens]], None)


def _in_parts(state: torch.Tensor, size: int, count: int = -1) -> torch.Tensor:
    """Return (rows, count, size) of (rows, numbers)."""
    return state.reshape(state.shape[0], count, size)


class _Linear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, state: torch.Tensor) -> torch.Tensor:
        return functional.linear(state, self._weight, self._bias)


class _Across:
    """A linear layer over what stands at one place of each part."""

    def __init__(self, linear: _Linear, parts: int) -> None:
        self._linear, self._parts = linear, parts

    def __call__(self, state: torch.Tensor) -> torch.Tensor:
        places = _in_parts(state, -1, self._parts).transpose(1, 2)  # (rows, places, parts)
        return self._linear(places).transpose(1, 2).flatten(1)


class _LinearEach:
    """One linear layer a member, (members, in, out)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, state: torch.Tensor) -> torch.Tensor:
        members, size, _ = self._weight.shape
        parts = _in_parts(state, size).expand(-1, members, -1)  # (rows, members, in)
        found = torch.bmm(parts.transpose(0, 1), self._weight)  # (members, rows, out)
        if self._bias is not None:
            found = found + self._bias[:, None]
        return found.transpose(0, 1).flatten(1)


class _Expected:
    def __init__(self, card: mechanism.Expected | mechanism.Deviation) -> None:
        self._card = card

    def __call__(self, state: torch.Tensor) -> torch.Tensor:
        expected: torch.Tensor = (_in_parts(state, self._card.bins) * self._values(state)).sum(-1)
        return expected

    def _values(self, state: torch.Tensor) -> torch.Tensor:
        card = self._card
        return torch.linspace(card.low, card.high, card.bins, device=state.device)


class _Deviation(_Expected):
    def __call__(self, state: torch.Tensor) -> torch.Tensor:
        away = self._values(state) - super().__call__(state)[..., None]  # (rows, parts, bins)
        variance: torch.Tensor = (_in_parts(state, self._card.bins) * away**2).sum(-1)
        return variance.sqrt()
