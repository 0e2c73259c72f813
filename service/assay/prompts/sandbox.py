"""Jinja's sandbox, made tighter: no number, text or range beyond what a chat template needs.

transformers renders in Jinja's sandbox, which keeps a template from everything but the processor
and the memory. What one operation could take of these without end is refused before it is done;
for what many operations take, the process that renders has limits.
"""

from __future__ import annotations

import re
from collections.abc import Sized
from typing import Any, Final

from jinja2 import sandbox
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

_MOST_BITS: Final = 4_096  # of a whole number
_MOST_LENGTH: Final = 1 << 20  # of a text or a list that is repeated
_MOST_RANGE: Final = 10_000
_WIDE = re.compile(r"\d{5,}|\*")  # a width of `'%10d' % 1`


def tighten() -> None:
    """Tighten the sandbox of every template that this process renders from now on."""
    sandbox.MAX_RANGE = _MOST_RANGE
    SandboxedEnvironment.intercepted_binops = frozenset({"**", "*", "%"})
    SandboxedEnvironment.call_binop = _call_binop  # type: ignore[method-assign]


def _call_binop(
    self: SandboxedEnvironment, context: object, operator: str, left: Any, right: Any
) -> Any:
    """Return a power, a product, or a text with what is put into it.

    Raises:
        SecurityError: It would be too large.
    """
    del context
    if operator == "%" and isinstance(left, str) and _WIDE.search(left):
        raise SecurityError("a text becomes too long")
    is_power = operator == "**"
    if operator != "%" and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if is_power else left.bit_length() + right.bit_length()
        if bits > _MOST_BITS and left not in (0, 1, -1):
            raise SecurityError("a number becomes too large")
    elif operator == "*":
        for operand, times in ((left, right), (right, left)):
            if (
                isinstance(times, int)
                and isinstance(operand, Sized)
                and len(operand) * times > _MOST_LENGTH
            ):
                raise SecurityError("a text or a list becomes too long")
    return self.binop_table[operator](left, right)
