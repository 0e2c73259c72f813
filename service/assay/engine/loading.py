"""A process' models on its device: loaded, verified, compiled where that is worth it, and warm.

Memory is divided once all weights are there: first the blocks that each model keeps, then the
largest batch, which takes what is left.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from assay.engine import (
    bounds,
    compilation,
    faults,
    model_runner,
    quantization,
    remote_code,
    shared_base,
    verification,
    warmup,
)
from assay.engine.attention import library
from assay.errors import CheckpointError
from assay.worker_protocol import Compile, FromWorker, Loaded, ModelSpec, Progress, Start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from assay.cards.card import Card
    from assay.engine.model_runner import ModelRunner
    from assay.engine.quantization import Quantizer
    from assay.notebook import Notebook

_PREFIX_BYTES = 512 * 2**20  # for the keys and values that a model keeps in a computer's memory
_PREFIX_PART = 0.1  # of what is free of a GPU's memory, for all models together


def of_the_device(error: Exception, device: str, spec: ModelSpec) -> str:
    """Say what a device did while a model was loaded or verified: nothing about the model."""
    said = faults.first_line(error)
    if faults.is_out_of_memory(error):
        return f"{device} has too little memory for {spec.folder} ({said})"
    return f"{device} failed while {spec.name} was loaded ({said}); the fault is the device's"


class Loader:
    """The models that a device process is told to load; `send` tells how far each is.

    `notebook` has the batch sizes that earlier processes found.
    """

    def __init__(
        self,
        start: Start,
        send: Callable[[FromWorker], None],
        notebook: Notebook | None = None,
    ) -> None:
        self.runners: dict[str, ModelRunner] = {}
        self._start = start
        self._send = send
        self._budgets = warmup.Budgets(start.warm_up, notebook)
        self._free: int | None = None  # bytes of a GPU, beside all models
        self._sharing: shared_base.Sharing | None = None

    def load(self, spec: ModelSpec) -> None:
        """Load and verify a model, and compile it where that is worth it.

        Raises:
            CheckpointError: It can't be served.
        """
        if spec.name in self.runners:  # it came with the base that it shares
            return
        with self._telling_faults(spec):
            if self._sharing is None:
                self._sharing = shared_base.plan(self._start.models)
            self.runners.update(self._on_shared_base(spec) or {spec.name: self._loaded(spec)})
        if why := self._sharing.reasons.get(spec.name):
            self.runners[spec.name].warnings.append(
                f"it holds a base of its own, though other adapters lie on the same one: {why}"
            )

    def warm_up(self, spec: ModelSpec) -> None:
        """Give a model its memory, find its batch size, and say that it is loaded; once all are.

        Raises:
            CheckpointError: The device has too little memory.
        """
        with self._telling_faults(spec):
            self._warm_up(spec, self.runners[spec.name])

    @contextlib.contextmanager
    def _telling_faults(self, spec: ModelSpec) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not faults.is_fault(error):
                raise
            raise CheckpointError(of_the_device(error, self._start.device, spec)) from error

    def _loaded(self, spec: ModelSpec) -> ModelRunner:
        start, send = self._start, self._send
        device = _device(start.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # kernels that are launched by hand go to the current one
        send(Progress(spec.name, "load", 0.0))
        dtype = _dtype(spec.dtype, device, spec.card)
        quantizer = _quantizer(spec, device)
        if spec.trust is not None:
            foreign = remote_code.load(
                spec.name, spec.folder, spec.card, spec.trust, device=device, dtype=dtype
            )
            _check(foreign, spec, send)
            foreign.verify()
            if start.invariant and device.type == "cuda":
                foreign.warnings.append("its bits may depend on the batch: its code is its own")
            return foreign
        trunk = model_runner.load(
            spec.folder, spec.card, device=device, dtype=dtype, base=spec.base
        )
        _check(trunk, spec, send)
        self._verify([spec], trunk, quantizer)
        return trunk

    def _on_shared_base(self, spec: ModelSpec) -> dict[str, ModelRunner]:
        """Return the models that share a base with this one, which run as one; or nothing.

        Where they can't after all, they are loaded one by one, and each says why.
        """
        assert self._sharing is not None
        group = self._sharing.groups.get(spec.name, ())
        if not group:
            return {}
        device = _device(self._start.device)
        if self._start.invariant:
            self._sharing.give_up(group, "its products are to be invariant")
            return {}
        if device.type == "cuda":
            torch.cuda.set_device(device)
        try:
            for member in group:
                self._send(Progress(member.name, "load", 0.0))
            dtype = _dtype(spec.dtype, device, spec.card)
            runner = shared_base.load(group, device=device, dtype=dtype)
            for member in group:
                _check(runner, member, self._send)
            self._verify(group, runner, None)
        except CheckpointError as error:
            self._sharing.give_up(group, error.message)
            return {}
        return {member.name: runner for member in group}

    def _verify(
        self, specs: Sequence[ModelSpec], trunk: ModelRunner, quantizer: Quantizer | None
    ) -> None:
        """Verify what is loaded, and compile it where that is worth it."""
        mode = self._start.compile
        has_compiler = _has_compiler(mode)
        is_made = mode != "off" and library.is_made()
        verification.verify(
            trunk,
            compiled=has_compiler or is_made,
            attention=self._start.attention,
            quantizer=quantizer,
            fused=mode == "auto",  # on: inductor fuses; off: nothing is
            invariant=self._start.invariant,
        )
        if has_compiler and (mode == "on" or trunk.is_worth_compiling):
            for spec in specs:
                self._send(Progress(spec.name, "compile", 0.0))
            verification.compile_blocks(trunk)
        elif mode != "off" and trunk.is_worth_compiling:
            trunk.warnings.append("its blocks run uncompiled, slower: there is no C++ compiler")

    def _warm_up(self, spec: ModelSpec, trunk: ModelRunner) -> None:
        self._send(Progress(spec.name, "warm up", 0.0))
        sharers = tuple(name for name, runner in self.runners.items() if runner is trunk)
        if spec.name == sharers[0]:
            verification.keep_prefixes(trunk, self._prefix_bytes(spec, trunk.device))
        if trunk.device.type == "cuda" and self._start.compile == "auto" and trunk.adapters == 1:
            verification.capture_graphs(trunk)
        budget = self._budgets.of(trunk)
        self._send(
            Loaded(
                model=spec.name,
                architecture=type(trunk.model).__name__,
                device=str(trunk.device),
                dtype=str(trunk.dtype).removeprefix("torch."),
                forward=trunk.forward,
                attention=trunk.attention.removeprefix("assay-"),
                is_compiled=trunk.is_compiled,
                shares_prefixes=trunk.shares_prefixes,
                reads=trunk.readout.position,
                outputs=trunk.outputs,
                inputs=trunk.inputs,
                parameters=trunk.parameters,
                budget_tokens=budget.tokens,
                prefix_blocks=trunk.block_cache.count // trunk.adapters if trunk.block_cache else 0,
                tokens_per_s=budget.tokens_per_s,
                most_batch_tokens=budget.most,
                quantized=trunk.quantized.kind if trunk.quantized else "none",
                warnings=tuple(trunk.warnings),
                shared_base=sharers if len(sharers) > 1 else (),
            )
        )

    def _prefix_bytes(self, spec: ModelSpec, device: torch.device) -> int:
        """Return how much memory a model's kept prefixes may take."""
        if spec.prefix_cache_mb is not None:
            return spec.prefix_cache_mb * 2**20
        if device.type != "cuda":
            return _PREFIX_BYTES
        if self._free is None:
            torch.cuda.empty_cache()
            self._free, _ = torch.cuda.mem_get_info(device)
        return int(self._free * _PREFIX_PART) // len(self.runners)


def _check(trunk: ModelRunner, spec: ModelSpec, send: Callable[[FromWorker], None]) -> None:
    """Refuse what isn't what was asked for, before it is verified."""
    send(Progress(spec.name, "verify", 0.0))
    _check_revision(spec)
    bounds.check(trunk.model, trunk.readout, spec.card, spec.max_tokens)


def _check_revision(spec: ModelSpec) -> None:
    """Refuse files that were replaced since the front read them: scores would go by a wrong name.

    To be called once everything is loaded: files that are as they were are those that were loaded.
    """
    if spec.checkpoint is None:
        return
    try:
        now = spec.checkpoint.revision
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or spec.folder} can't be read: {error.strerror or error}"
        ) from error
    if now != spec.revision:
        raise CheckpointError(
            f"the files in {spec.folder} are no longer of revision {spec.revision} but of {now}; "
            "reload to serve these, or put the others back"
        )


def _has_compiler(mode: Compile) -> bool:
    """Return whether to compile; a compiler that was asked for must be there."""
    if mode == "off":
        return False
    if mode == "on" and not compilation.is_available():
        raise CheckpointError("compile is on, but there is no C++ compiler; install g++")
    return compilation.is_available()


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CheckpointError(f"'{name}' is not a device; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise CheckpointError(
            f"device '{name}' doesn't exist; torch sees {torch.cuda.device_count()} CUDA devices"
        )
    return device


def _quantizer(spec: ModelSpec, device: torch.device) -> Quantizer | None:
    """Return what rounds linear layers; None: they are left as they are.

    Raises:
        CheckpointError: This checkpoint's can't be, or not on this device.
    """
    if (kind := spec.rounds_to) == "none":
        return None
    if spec.trust is not None:
        raise CheckpointError(
            f"quantize = '{kind}' can't be had: {spec.folder} runs by its own code, whose layers "
            "are left as they are; leave quantize out"
        )
    return quantization.quantizer(kind, device, spec.folder, spec.base)


def _dtype(name: str, device: torch.device, card: Card) -> torch.dtype | None:
    """Return the trunk's dtype: auto is float32 on CPU, the card's or checkpoint's elsewhere."""
    if name == "auto" and device.type == "cpu":
        return torch.float32
    if name == "auto":
        name = card.trunk.dtype or name
    if name == "auto":
        return None
    dtype: torch.dtype = getattr(torch, name)
    return dtype
