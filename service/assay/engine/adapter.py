"""A PEFT adapter put on its base and merged into it, by the peft package.

Not here: what an adapter's folder says of itself (`cards.adapter`), and the base (`checkpoint`).
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from assay.cards import adapter as adapters
from assay.cards import headers
from assay.engine import faults
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    import transformers

_NAME = "default"
_HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
_UNMERGED = ("XLORA",)  # it weighs several adapters anew at each token


class Adapter:
    """One adapter's folder: what it saves whole, and how it goes onto its base."""

    def __init__(self, folder: Path) -> None:
        """Read its config and its tensors' names.

        Raises:
            CheckpointError: peft isn't installed, or can't merge such an adapter.
        """
        self._folder = folder
        self._peft = _peft(folder)
        self._config = self._read_config()
        self._tensors = adapters.tensors(folder)

    @property
    def labels(self) -> int | None:
        """The rows of the head that it brings; None where it brings none."""
        shapes = [self._tensors[name].shape for name in _HEADS if name in self._tensors]
        return shapes[0][0] if shapes else None

    def saved(self, model: transformers.PreTrainedModel) -> set[str]:
        """Return which of a model's own tensors the adapter replaces."""
        return self._tensors.keys() & set(model.state_dict())

    def merge(
        self, model: transformers.PreTrainedModel, device: torch.device
    ) -> transformers.PreTrainedModel:
        """Return the model with the adapter merged in; what it saves is copied in its dtype.

        Raises:
            CheckpointError: A tensor of the adapter is missing, left over or misshapen.
        """
        is_classifier = self._config.task_type == "SEQ_CLS"
        kind = "PeftModelForSequenceClassification" if is_classifier else "PeftModel"
        try:
            with warnings.catch_warnings():
                # of transformers' names that peft still uses
                warnings.simplefilter("ignore", FutureWarning)
                adapted = getattr(self._peft, kind)(model, self._config, _NAME)
                report = adapted.load_adapter(self._folder, _NAME, torch_device=str(device))
                self._check(report.missing_keys, report.unexpected_keys)
                merged: transformers.PreTrainedModel = adapted.merge_and_unload()
        except KeyError as error:  # of a module that it says it saves
            raise CheckpointError(
                f"{self._folder} lacks {error}, which its config names"
            ) from error
        except (*_FOREIGN, AttributeError) as error:
            if faults.is_fault(error):
                raise
            raise self._unusable(error) from error
        return merged

    def _read_config(self) -> Any:
        try:
            config = self._peft.PeftConfig.from_pretrained(self._folder)
        except (*_FOREIGN, KeyError) as error:
            raise self._unusable(error) from error
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if config.is_prompt_learning or config.is_adaption_prompt or kind in _UNMERGED:
            raise CheckpointError(
                f"{self._folder} is an adapter of type {kind}, which can't be merged into its base"
            )
        config_fields = {field.name for field in fields(config)} | {"peft_version"}
        said = headers.json_object(self._folder / adapters.CONFIG)
        if unknown := sorted(
            name for name, value in said.items() if value and name not in config_fields
        ):
            raise CheckpointError(
                f"{self._folder / adapters.CONFIG} sets '{unknown[0]}', which peft "
                f"{self._peft.__version__} doesn't know; install the peft that wrote it"
            )
        config.inference_mode = True
        return config

    def _check(self, missing: list[str], left_over: list[str]) -> None:
        if missing:
            raise CheckpointError(
                f"{self._folder} lacks '{missing[0]}', which its config asks for; it would be "
                "filled with random numbers"
            )
        if left_over:
            raise CheckpointError(
                f"{self._folder} holds '{left_over[0]}', for which its config and its base have no "
                "place; the model would not be the one that was trained"
            )

    def _unusable(self, error: Exception) -> CheckpointError:
        lines = str(error).strip().splitlines()
        return CheckpointError(
            f"{self._folder}: peft {self._peft.__version__} can't use the adapter: "
            f"{' '.join(lines[:2]) or type(error).__name__}"
        )


_FOREIGN = (OSError, RuntimeError, ValueError, TypeError, ImportError, SafetensorError)


def _peft(folder: Path) -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise CheckpointError(
            f"{folder} is a PEFT adapter, and the package peft is missing; install "
            "'assay-rm[serve,adapters]'"
        ) from error
