"""A checkpoint's own code, imported from a copy that was held against what the operator trusts.

What is copied is what is hashed is what is run: whoever changes the folder meanwhile, or before a
device process is started again, changes nothing of that. transformers' way to import such code
reads the folder twice and keeps a copy that all processes of the user share.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import transformers

from assay.cards import code, headers
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from assay.cards.code import Trust

_CONFIG = "AutoConfig"


@contextlib.contextmanager
def copied(name: str, folder: Path, trust: Trust) -> Iterator[Path]:
    """Fill the private folder with what may be run, and call it by the checkpoint's in errors.

    Raises:
        CheckpointError: The checkpoint's code isn't the one that is trusted. None of it is kept.
    """
    code.copy(folder, trust.private)
    try:
        code.check(name, trust.digest, code.digest(trust.private))
    except CheckpointError:
        shutil.rmtree(trust.private)
        raise
    try:
        yield trust.private
    except CheckpointError as error:
        raise CheckpointError(error.message.replace(str(trust.private), str(folder))) from error


def configuration(private: Path, digest: str) -> Any:
    """Return config.json by the class that it names, of the code's or transformers'."""
    said = headers.config(private)["auto_map"]
    if _CONFIG in said:
        return _imported(private, digest, said[_CONFIG]).from_pretrained(
            private, local_files_only=True
        )
    return transformers.AutoConfig.from_pretrained(
        private, trust_remote_code=False, local_files_only=True
    )


def model_class(private: Path, digest: str, auto_class: str) -> Any:
    """Return the class that config.json names for a model."""
    return _imported(private, digest, headers.config(private)["auto_map"][auto_class])


def _imported(private: Path, digest: str, reference: str) -> Any:
    """Return a class by `module.Class`, its module and all that is beside it from that folder."""
    name = f"assay_trusted_{digest}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(private)]
        sys.modules[name] = package
    module, _, class_name = reference.rpartition(".")
    return getattr(importlib.import_module(f"{name}.{module}"), class_name)
