"""Operators that torch.compile calls without looking inside.

Defined by hand: what `torch.library.custom_op` does around a call takes a tenth of a millisecond,
and a forward pass makes a hundred of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_library = torch.library.Library("assay", "FRAGMENT")  # type: ignore[no-untyped-call]


def define(
    schema: str,
    function: Callable[..., torch.Tensor],
    shape: Callable[..., torch.Tensor],
) -> None:
    """Make `torch.ops.assay.NAME` of a function; `shape` returns an empty result for the same call.

    `schema` is in torch's own language: `NAME(Tensor a, float b) -> Tensor`.
    """
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.flexible_layout,))  # type: ignore[no-untyped-call]
    _library.impl(name, function, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"assay::{name}", shape, lib=_library)
