"""A checkpoint taken apart by its tensors' names: trunk, output embedding, and what is left: heads.

Which family the heads are of says `recognise`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.cards import headers, quantized

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from assay.cards.headers import Tensor

# A trunk's layer: its number, then at least two names, such as `layers.0.mlp.up_proj.weight`.
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.\d+\.\w+\.\w")
_OUTPUT = ("lm_head.", "embed_out.", "output.")
# What a model without a head calls its own parts, where nothing stands before them.
_BARE = frozenset(
    {
        *("layers", "layer", "h", "blocks", "encoder", "decoder", "shared", "pooler"),
        *("embed_tokens", "tok_embeddings", "embed_in", "embeddings", "wte", "wpe"),
        *("norm", "final_norm", "final_layer_norm", "ln_f", "rotary_emb", "rel_embeddings"),
    }
)


@dataclass(frozen=True, slots=True)
class Parts:
    """A checkpoint's files, sorted.

    `heads` are the tensors beside the trunk's, `output` those of the output embedding, and
    `beside` the names of all files in the folder.
    """

    folder: Path
    config: Mapping[str, Any]
    trunk: frozenset[str]
    output: frozenset[str]
    heads: Mapping[str, Tensor]
    beside: frozenset[str]

    @property
    def architecture(self) -> str:
        """The class that config.json names, or nothing."""
        return self.declared("architectures")

    def declared(self, key: str) -> str:
        """Return what config.json has under a key, of a list its first; nothing where it hasn't."""
        value = self.config.get(key)
        first = next(iter(value), None) if isinstance(value, list) else value
        return "" if first is None else str(first)

    def number(self, key: str) -> float | None:
        """Return the number that config.json has under a key; None where it has none."""
        value = self.config.get(key)
        return value if isinstance(value, int | float) else None

    @property
    def strange(self) -> list[str]:
        """Tensors under the trunk's name that no trunk is known to have; a head may be there."""
        split = ((name, name.split(".")) for name in self.trunk)
        return sorted(name for name, path in split if not _BARE & {*path[:2]})

    def rows(self, name: str) -> int:
        """Return how many numbers a head's layer gives, from its weight; 0 where it isn't there."""
        tensor = self.heads.get(name)
        return tensor.shape[0] if tensor is not None and tensor.shape else 0


def of(folder: Path) -> Parts:
    """Return a checkpoint folder taken apart.

    Raises:
        CheckpointError: config.json or a safetensors file can't be read.
    """
    config, tensors = headers.config(folder), quantized.tensors(folder)
    prefix = _trunk_prefix(tensors)
    trunk = frozenset(
        name
        for name in tensors
        if (name.startswith(f"{prefix}.") if prefix else name.split(".")[0] in _BARE)
    )
    output = frozenset(name for name in tensors.keys() - trunk if name.startswith(_OUTPUT))
    heads = {name: tensor for name, tensor in tensors.items() if name not in trunk | output}
    beside = frozenset(path.name for path in folder.iterdir())
    return Parts(folder, config, trunk, output, heads, beside)


def _trunk_prefix(names: Iterable[str]) -> str:
    """Return the first part of the names of most layers; nothing where no name stands before."""
    layers = [name for name in names if _LAYER.search(name)]
    firsts = Counter(name.split(".")[0] for name in layers or names)
    most = firsts.most_common(1)
    return most[0][0] if most and most[0][0] not in _BARE else ""
