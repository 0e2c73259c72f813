"""Forward passes in float32 by weights of 16 bits, of which one module's at a time grow."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def in_float32(model: torch.nn.Module) -> Iterator[None]:
    """Compute in float32 what is called inside: what the weights mean, without 16 bits' roundings.

    Beside the model it takes memory for the largest of its modules' own weights, in float32. What
    reads another module's weights by itself gets them as they are, and may fail with RuntimeError.
    """
    narrow: dict[torch.nn.Module, dict[str, torch.nn.Parameter | None]] = {}

    def grow(module: torch.nn.Module, _: Any) -> None:
        narrow[module] = dict(module._parameters)  # noqa: SLF001  has no public name
        for name, parameter in narrow[module].items():
            if parameter is not None and parameter.is_floating_point():
                wide = torch.nn.Parameter(parameter.float(), requires_grad=False)
                module._parameters[name] = wide  # noqa: SLF001

    def shrink(module: torch.nn.Module, *_: Any) -> None:
        module._parameters.update(narrow.pop(module))  # noqa: SLF001

    hooks = []
    for module in model.modules():
        if module._parameters:  # noqa: SLF001
            hooks.append(module.register_forward_pre_hook(grow))
            hooks.append(module.register_forward_hook(shrink))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in list(narrow):  # inside which it failed
            shrink(module)
