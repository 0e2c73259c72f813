"""Behind transformers' attention interface: layers call, the batch at hand says who sees whom.

A batch is one row of tokens with no padding. Each backend is registered under a name of its own;
the packed batch travels beside the model's arguments, in a context, since not every architecture
passes unknown ones on. To torch.compile a layer's attention is one opaque operator.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, masking_utils
from transformers.masking_utils import AttentionMaskInterface

from assay.engine import operator, packing
from assay.engine.attention import blocks, exactness, native, tree, varlen
from assay.engine.attention.pattern import LayerKind, Pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np

    from assay.engine.attention.pattern import AttentionBackend
    from assay.engine.block_cache import BlockCache, Layer
    from assay.engine.packing import PackedBatch

# The fastest first, as far as it was measured: the tree kernel never ran on a GPU.
_BACKENDS: dict[str, AttentionBackend] = {
    "native": native.attend,
    "varlen": varlen.attend,
    "tree": tree.attend,
    "blocks": blocks.attend,
}
_OF_DEVICE = {"cpu": ("native",), "cuda": ("varlen", "tree")}  # faster than torch's products
# Times the limit of `exactness`, where products are rounded to the dtype, too, as eager's are.
_EAGER = {torch.bfloat16: 10.0, torch.float16: 10.0}
_ROUNDINGS = {"assay-native": _EAGER, "assay-blocks": _EAGER}
_pass: ContextVar[_Pass] = ContextVar("pass")


@dataclass(slots=True)
class _Pass:
    """A forward pass under way: its batch, and how many of the trunk's layers it has met."""

    packed: PackedBatch
    cache: BlockCache | None
    on_layer: Callable[[int], None]
    rows: np.ndarray | None  # that are read
    on_narrowed: Callable[[], None]
    layers: int = 0
    is_taking: bool = False
    taken: _Taken | None = None  # by a layer that attends next
    masks: set[int] = field(default_factory=set)  # tokens that masks of the trunk's would let see
    kinds: set[LayerKind] = field(default_factory=set)  # of its layers

    @property
    def windows(self) -> set[int | None]:
        """The tokens that its layers asked to see."""
        return {kind.pattern.window for kind in self.kinds}

    def meet(self, key: torch.Tensor, value: torch.Tensor) -> Layer | None:
        """Count a layer, and keep of its keys and values what is to be kept."""
        self.on_layer(self.layers)
        layer = None
        if self.cache is not None:
            layer = self.cache.layer(self.layers, key, value)
            if len(self.packed.new_slots):
                layer.keep(key, value, self.packed)
        self.layers += 1
        return layer


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    """One layer's keys and values of all rows, (kv_heads, rows, width) each."""

    key: torch.Tensor
    value: torch.Tensor
    layer: Layer | None


class _Enough(Exception):
    """The keys and values are there."""


class UnsupportedAttention(Exception):
    """The trunk asks for something packed attention doesn't know; it must run padded."""


def names(device: torch.device, dtype: torch.dtype, *, compiled: bool) -> list[str]:
    """Return the attention implementations that run here, the fastest first.

    Without `compiled` nothing that a C++ compiler must make first is among them.
    """
    return [
        f"assay-{backend}"
        for backend in _BACKENDS
        if not obstacle(backend, device, dtype, compiled=compiled)
    ]


def missing(device: torch.device, dtype: torch.dtype, chosen: str, *, compiled: bool) -> list[str]:
    """Return why kernels of the device aren't among `names` that are faster than the chosen one."""
    faster = []
    for backend in _BACKENDS:
        if f"assay-{backend}" == chosen:
            break
        if backend in _OF_DEVICE.get(device.type, ()):
            faster.append(obstacle(backend, device, dtype, compiled=compiled))
    return [why for why in faster if why]


def obstacle(backend: str, device: torch.device, dtype: torch.dtype, *, compiled: bool) -> str:
    """Return why a way to compute attention doesn't run here; nothing where it does."""
    if backend == "native":
        return _native_obstacle(device, dtype, compiled=compiled)
    if backend == "varlen" and device.type != "cuda":
        return f"flash attention runs on a GPU, not on {device.type}"
    if backend == "varlen" and not varlen.is_available(device, dtype):
        return f"flash attention takes bfloat16 and float16, not {dtype}"
    return tree.obstacle(device, dtype) if backend == "tree" else ""


def _native_obstacle(device: torch.device, dtype: torch.dtype, *, compiled: bool) -> str:
    if device.type != "cpu":
        return f"the compiled attention kernel runs on the CPU, not on {device.type}"
    if not compiled:
        return "the attention kernel isn't compiled (no C++ compiler, or compile is off)"
    if not native.is_available(device, dtype):
        return "the attention kernel can't be compiled for this processor and dtype"
    return ""


def limit(attention: str, dtype: torch.dtype) -> float:
    """Return how far an implementation may be from float64; see `exactness.largest_error`."""
    return exactness.LIMITS[dtype] * _ROUNDINGS.get(attention, {}).get(dtype, 1)


def inexactness(
    attention: str, kinds: Iterable[LayerKind], device: torch.device, dtype: torch.dtype, most: int
) -> str:
    """Return in which way an implementation is further from float64 than its limit; or nothing.

    Of windows that are wider than `most` tokens the end isn't tried.
    """
    backend = _BACKENDS[attention.removeprefix("assay-")]
    for kind in kinds:
        error = exactness.largest_error(backend, kind, device, dtype, most)
        if error > limit(attention, dtype):
            return f"its attention is off by {error:.2g} on this device ({kind})"
    return ""


@contextmanager
def over(
    packed: PackedBatch,
    cache: BlockCache | None = None,
    on_layer: Callable[[int], None] = lambda _: None,
    rows: np.ndarray | None = None,
    *,
    first: PackedBatch | None = None,
    on_narrowed: Callable[[], None] = lambda: None,
) -> Iterator[_Pass]:
    """Let the layers called inside attend over this batch, in a trunk's order, all of them.

    `on_layer` is called with each layer's number before it attends. `rows`, (read rows,) int32, are
    what the last one may be narrowed to; see `last_layer`. `on_narrowed` is called where it is.
    Over `first`, which reads and writes no other blocks, layers attend until `go_on`.

    Raises:
        ValueError: The batch reads blocks that there aren't, or that were never written.
    """
    if cache is not None:
        cache.open(packed)
    elif packed.held or len(packed.new_slots):
        raise ValueError("there are no blocks to read or write")
    at = _Pass(first or packed, cache, on_layer, rows, on_narrowed)
    token = _pass.set(at)
    try:
        yield at
    finally:
        _pass.reset(token)
    if cache is not None:
        cache.close(packed)


def go_on(packed: PackedBatch) -> None:
    """Let the layers that come next attend over another batch; see `over`."""
    _pass.get().packed = packed


def rows_read(layer: int) -> np.ndarray | None:
    """Return the rows that are read of the pass under way, where this layer comes next."""
    at = _pass.get(None)
    return at.rows if at is not None and at.layers == layer else None


def filled_rows(device: torch.device) -> torch.Tensor:
    """Narrow the pass under way to the rows that are read: int32, a multiple of `packing.ROWS`."""
    at = _pass.get()
    assert at.rows is not None
    at.on_narrowed()
    return at.packed.on(device, read_rows=packing.filled(at.rows))["read_rows"]


@contextmanager
def taking_keys() -> Iterator[None]:
    """Call a layer inside: it ends where it attends, and its keys and values are for the next one.

    Raises:
        UnsupportedAttention: It doesn't attend.
    """
    at = _pass.get()
    at.is_taking = True
    try:
        yield
    except _Enough:
        return
    finally:
        at.is_taking = False
    raise UnsupportedAttention


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    backend: str,
    scale: float,
    causal: bool,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    at = _pass.get()
    packed = at.packed
    if packed.is_shared and not causal:
        raise ValueError("a token that sees what follows it can't be shared")
    if at.is_taking:
        at.taken = _Taken(key, value, at.meet(key, value))
        raise _Enough
    pattern = Pattern(scale, causal, window, softcap)
    at.kinds.add(LayerKind(pattern, len(query), len(key), query.shape[2], value.shape[2]))
    if (taken := at.taken) is not None:
        at.taken = None
        return _BACKENDS[backend](
            query, taken.key, taken.value, packed, pattern, taken.layer, at.rows
        )
    return _BACKENDS[backend](query, key, value, packed, pattern, at.meet(key, value))


def _shape(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
    del key
    return query.new_empty(query.shape[1], query.shape[0], value.shape[-1])


operator.define(
    "attend(Tensor query, Tensor key, Tensor value, str backend, float scale, bool causal, "
    "int? window, float? softcap) -> Tensor",
    _attend,
    _shape,
)


class PackedAttention:
    """One backend, as transformers calls it."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        AttentionInterface.register(f"assay-{backend}", self)
        AttentionMaskInterface.register(f"assay-{backend}", _no_mask)

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,  # (1, heads, tokens, head_dim)
        key: torch.Tensor,  # (1, kv_heads, tokens, head_dim)
        value: torch.Tensor,  # (1, kv_heads, tokens, head_dim)
        attention_mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        is_causal: bool | None = None,
        s_aux: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the attention's output, (1, tokens, heads, head_dim), and no weights."""
        if attention_mask is not None or s_aux is not None or position_bias is not None:
            raise UnsupportedAttention
        if query.shape[0] != 1 or key.shape[2] != query.shape[2]:
            raise UnsupportedAttention
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        mixed: torch.Tensor = torch.ops.assay.attend(
            query[0],
            key[0],
            value[0],
            self.backend,
            float(scale),
            bool(causal),
            sliding_window,
            softcap,
        )
        return mixed[None], None


def _no_mask(*_: Any, local_size: int | None = None, **__: Any) -> None:
    """Tell transformers to build no mask: the packed batch says who sees whom.

    A window or chunk of `local_size` tokens is noted: some layers have it from the mask alone.
    """
    at = _pass.get(None)
    if at is not None and local_size is not None:
        at.masks.add(local_size)


def _sequences(position_ids: torch.Tensor) -> torch.Tensor | None:
    """Look for sequences packed in a row, as transformers does; the packed batch knows its own.

    It would look at the positions on the device, and so wait for a GPU in each pass.
    """
    return None if _pass.get(None) is not None else _find_sequences(position_ids)


_find_sequences = masking_utils.find_packed_sequence_indices
masking_utils.find_packed_sequence_indices = _sequences
for _backend in _BACKENDS:
    PackedAttention(_backend)
