"""Options from `ASSAY_CLIENT_...` variables, for frameworks that find a reward by its path.

`ASSAY_CLIENT_URL` and `ASSAY_CLIENT_MODEL` are `url` and `model`, and so on for every option.
Numbers, booleans, lists and objects are written as JSON: `ASSAY_CLIENT_CLIP=[-5, 5]`.
"""

from __future__ import annotations

import json
import os
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from assay import errors
from assay.client.adapters.reward import Reward

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "ASSAY_CLIENT_"
_AS_JSON = {"attributes", "clip", "tools", "documents", "chat_template_kwargs"}


def reward(given: Mapping[str, Any] | None = None, **defaults: Any) -> Reward:
    """Return the reward that the environment describes; options that are given win.

    Raises:
        InvalidField: No URL is set, or an option is unknown or wrong.
    """
    options = {**defaults, **_read(), **(given or {})}
    url = options.pop("url", None)
    if url is None:
        raise errors.InvalidField(f"set {PREFIX}URL to the address of a server", param="url")
    return Reward.of(url, options)


def _read() -> dict[str, Any]:
    options: dict[str, Any] = {}
    for variable, value in os.environ.items():
        if not variable.startswith(PREFIX) or not value:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in Reward.model_fields:
            (near,) = get_close_matches(name, Reward.model_fields, n=1, cutoff=0.0)
            raise errors.InvalidField(
                f"unknown option {variable}; did you mean {PREFIX}{near.upper()}?", param=name
            )
        options[name] = _parsed(variable, value) if name in _AS_JSON else value
    return options


def _parsed(variable: str, value: str) -> object:
    try:
        parsed: object = json.loads(value)
    except ValueError as error:
        raise errors.InvalidField(f"{variable} is not JSON: {error}") from None
    return parsed
