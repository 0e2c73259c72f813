"""The libraries that fit: of the extra `calibrate`, imported when something is fitted."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from assay.errors import SettingsError

_ALL = ("scipy", "sklearn", "statsmodels")


def library(name: str) -> Any:
    """Return a module of the extra; `check` has found that it is there."""
    if sys.modules.get("torch", name) is None:  # kept out by us, which scipy takes for a module
        del sys.modules["torch"]
    return import_module(name)


def check(*others: str) -> None:
    """Find that all are installed, before anything is scored.

    Raises:
        SettingsError: One isn't; the sentence names the extra.
    """
    for name in (*_ALL, *others):
        if find_spec(name) is None:
            raise SettingsError(
                f"`assay calibrate` needs {name!r}; install it with "
                "pip install 'assay-rm[calibrate]'"
            )
