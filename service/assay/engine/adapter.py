"""A PEFT adapter put on its base, and merged into it or not, by the peft package.

Not here: what an adapter's folder says of itself (`cards.adapter`), and the base (`checkpoint`).
"""

from __future__ import annotations

import importlib
import warnings
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from assay.cards import adapter as adapters
from assay.cards import headers
from assay.engine import faults
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import transformers

_NAME = "default"
_HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
_UNMERGED = ("XLORA",)  # it weighs several adapters anew at each token
_HEAD_MODULES = {"score", "classifier"}
# Of a LoRA's config: what its tensors' shapes and the factors' scale say, or only training reads.
_OF_ANY_VALUE = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
    *("revision", "inference_mode", "r", "lora_alpha", "use_rslora", "rank_pattern"),
    *("alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "lora_dropout", "init_lora_weights", "modules_to_save"),
}

Factors = tuple[torch.Tensor, torch.Tensor]  # (rank, in) and (out, rank), the scale in it


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

    @property
    def obstacle(self) -> str:
        """Why it can't lie on its base unmerged, beside others; nothing where it can.

        It can where all it does is to add products of two factors to linear layers, and to bring a
        head.
        """
        if self._kind != "LORA":
            return f"it is of type {self._kind}, not LORA"
        plain = type(self._config)()
        for field in fields(self._config):
            value = getattr(self._config, field.name)
            if value and field.name not in _OF_ANY_VALUE and value != getattr(plain, field.name):
                return f"it sets {field.name}"
        if self._config.init_lora_weights not in (True, False, "gaussian"):
            return f"init_lora_weights = '{self._config.init_lora_weights}' changes its base"
        others = set(self._config.modules_to_save or ()) - _HEAD_MODULES
        return f"it saves '{min(others)}' whole" if others else ""

    def merge(
        self, model: transformers.PreTrainedModel, device: torch.device
    ) -> transformers.PreTrainedModel:
        """Return the model with the adapter merged in; what it saves is copied in its dtype.

        Raises:
            CheckpointError: A tensor of the adapter is missing, left over or misshapen.
        """
        with self._telling():
            merged: transformers.PreTrainedModel = self._on(model, device).merge_and_unload()
        return merged

    @contextmanager
    def on(
        self, model: transformers.PreTrainedModel, device: torch.device
    ) -> Iterator[dict[str, Factors]]:
        """Let a model have the adapter in its layers, as peft computes it, and its head.

        Yields what it adds to each linear layer, by the layer's name in the model. Behind that the
        layers are what they were; of the head, what the adapter saves stays.

        Raises:
            CheckpointError: As `merge`; or it changes something else than linear layers.
        """
        with self._telling():
            adapted = self._on(model, device)
        yield {
            name: self._factors(name, module)
            for name, module in model.named_modules()
            if hasattr(module, "lora_A")
        }
        with self._telling():
            adapted.unload()

    def _on(self, model: transformers.PreTrainedModel, device: torch.device) -> Any:
        """Return peft's model of a base and the adapter."""
        is_classifier = self._config.task_type == "SEQ_CLS"
        kind = "PeftModelForSequenceClassification" if is_classifier else "PeftModel"
        with warnings.catch_warnings():
            # of transformers' names that peft still uses
            warnings.simplefilter("ignore", FutureWarning)
            adapted = getattr(self._peft, kind)(model, self._config, _NAME)
            report = adapted.load_adapter(self._folder, _NAME, torch_device=str(device))
        self._check(report.missing_keys, report.unexpected_keys)
        return adapted

    def _factors(self, name: str, layer: Any) -> Factors:
        """Return what peft's layer adds to a linear one."""
        if type(layer.base_layer) is not torch.nn.Linear or layer.lora_variant:
            raise CheckpointError(f"{self._folder}: '{name}' isn't a plain linear layer")
        down, up = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
        dtype = layer.base_layer.weight.dtype
        return down.detach().to(dtype), (up.detach() * layer.scaling[_NAME]).to(dtype)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say of what peft raises that it is the adapter's.

        Raises:
            CheckpointError: peft raised.
        """
        try:
            yield
        except KeyError as error:  # of a module that it says it saves
            raise CheckpointError(
                f"{self._folder} lacks {error}, which its config names"
            ) from error
        except (*_FOREIGN, AttributeError) as error:
            if faults.is_fault(error):
                raise
            raise self._unusable(error) from error

    def _read_config(self) -> Any:
        try:
            config = self._peft.PeftConfig.from_pretrained(self._folder)
        except (*_FOREIGN, KeyError) as error:
            raise self._unusable(error) from error
        kind = self._kind = str(getattr(config.peft_type, "value", config.peft_type))
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
