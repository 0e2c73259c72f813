"""One request on its way through the backends of its target: who asks, until when, what it cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from assay.errors import AssayError
    from assay.items import Cutting


@dataclass(slots=True)
class JobUsage:
    """What one request has cost so far, at all of its backends.

    `began_at` is when its first batch began, by the monotonic clock; `compute_s` adds up the
    batches that carried its items, `tokens` those of its items that ran, `computed_tokens` its part
    of what they computed.
    """

    began_at: float = math.inf
    compute_s: float = 0.0
    tokens: int = 0
    computed_tokens: float = 0.0


@dataclass(eq=False, slots=True)
class Job:
    """One request, as its backends know it.

    `settle` is called once for each item that was submitted, with its place and its raw outputs,
    (places read, outputs) float64, or its error. `deadline` is by the monotonic clock. Only jobs of
    one `scope` share prefixes.
    """

    settle: Callable[[int, np.ndarray | AssayError], None]
    cutting: Cutting
    deadline: float | None = None
    is_batch: bool = False
    caller: str = ""
    scope: str = ""
    usage: JobUsage = field(default_factory=JobUsage)
