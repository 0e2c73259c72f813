"""From a folder of safetensors to a model whose every tensor came from the file.

transformers fills what a file lacks with random numbers and only warns: here a missing, left-over
or misshapen tensor stops the start with its name. No code of the checkpoint's but by
`load_by_own_code`; of pickles only a head's own file that a card names, as plain tensors.
"""

from __future__ import annotations

import difflib
import functools
import pickle
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers.utils import is_accelerate_available

from assay.cards import adapter as adapters
from assay.cards import code, headers, quantized, sizes
from assay.engine import faults, internlm2, trusted
from assay.engine.adapter import Adapter
from assay.engine.expansion import Reader
from assay.engine.head import VOCABULARY, Head, VocabularyHead
from assay.engine.readout import CardHeads, NextToken, Readout, beside, own
from assay.errors import CheckpointError
from assay.worker_protocol import OUTLINE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

    from assay.cards.card import Card
    from assay.cards.quantized import Contents

SUFFIX = "ForSequenceClassification"
_OUTPUT_EMBEDDINGS = ("lm_head.weight", "embed_out.weight", "output.weight")
_SHOWN = 5
_CPU = torch.device("cpu")
_OUTLINE = torch.device(OUTLINE)


def load(
    folder: Path,
    card: Card,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    base: Path | None = None,
) -> tuple[transformers.PreTrainedModel, Readout]:
    """Return the model in evaluation mode on the device and its readout, in float32.

    With heads of the card's own the model is the trunk alone. `dtype` is the trunk's; None keeps
    the checkpoint's own. `base` is the folder below an adapter; None: the one that it names. On the
    device `OUTLINE` tensors have shapes and no numbers: no weight is read.

    Raises:
        CheckpointError: The folder can't be served with the right numbers; says which tensor.
    """
    if adapters.is_adapter(folder):
        base = weights_folder(folder, base)
        adapter = Adapter(folder)
        model = adapters_base([adapter], folder, base, card, device=device, dtype=dtype)
        model = still(adapter.merge(model, device))
        return model, own(model)
    contents, reader = _opened(folder)
    has_own_head = not card.has_reward_head and card.policy is None
    if card.trunk.layout == "internlm2":
        outlined = device == _OUTLINE
        every = _outline(contents).items() if outlined else reader.each()
        model, report = internlm2.load(folder, every, _OUTLINE if outlined else _CPU, dtype)
    else:
        named = _trunk_class(card)
        if has_own_head:
            _check_needs_no_code(folder)
        config = _config(folder, named)
        architecture = named or transformers.AutoModel
        if has_own_head:
            architecture = _architecture(config, labels=max(1, len(card.score.outputs)))
        model, report = _from_files(folder, reader, architecture, config, card, device, dtype)
    tensors = _Tensors(folder, reader, model, device)
    readout = _readout(card, folder, tensors) if card.heads or not has_own_head else None
    unused = [*card.trunk.unused, *_unread_output(card)]
    _check_complete(folder, report, used=tensors.used, unused=unused)
    model.to(device)
    _restore_head_precision(model, reader)
    if has_own_head and readout is not None:
        return still(model), beside(own(model), readout)
    return still(model), readout or own(model)


def load_by_own_code(
    folder: Path, card: Card, digest: str, *, device: torch.device, dtype: torch.dtype | None
) -> transformers.PreTrainedModel:
    """Return a model by the class in the checkpoint's own code, which runs in this process.

    `folder` is a private one, whose code has that digest; see `trusted`.

    Raises:
        CheckpointError: The code fails, or doesn't read exactly the tensors of the folder.
    """
    auto_class = code.auto_class(folder)
    if auto_class is None:
        raise CheckpointError(f"{folder}/config.json names no code for a model (auto_map)")
    contents, reader = _opened(folder)
    if contents.packed:
        raise CheckpointError(
            f"{folder} is quantized ({contents.method}) and brings code of its own, which reads "
            "its weights as it likes: the two aren't served together"
        )
    try:
        config = trusted.configuration(folder, digest)
        kind = trusted.model_class(folder, digest, auto_class)
        model, report = _from_files(folder, reader, kind, config, card, device, dtype)
    except CheckpointError:
        raise
    except Exception as error:  # the code may raise anything
        if faults.is_fault(error):
            raise
        raise CheckpointError(
            f"{folder} can't be loaded by its own code: {type(error).__name__}: "
            f"{_first_line(error)}"
        ) from error
    _check_complete(folder, report, used=(), unused=card.trunk.unused)
    return still(model.to(device))


def notes(folder: Path, base: Path | None = None) -> list[str]:
    """Return what an operator should know of how a folder, or its adapter's base, was loaded."""
    return [note] if (note := quantized.note(weights_folder(folder, base))) else []


def weights_folder(folder: Path, base: Path | None) -> Path:
    """Return the folder whose weights a trunk has: itself, or of an adapter its base's."""
    if not adapters.is_adapter(folder):
        return folder
    return base or adapters.base_folder(folder, _absent)


def still(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """Return a model in evaluation mode, without gradients or a cache of its own."""
    model.eval()
    model.requires_grad_(False)
    model.config.use_cache = False
    return model


def head_modules(model: transformers.PreTrainedModel) -> list[torch.nn.Module]:
    """Return the modules above the trunk, those of its pooler included; a trunk alone has none."""
    if model.base_model is model:
        return []
    modules = [module for name, module in model.named_children() if name != model.base_model_prefix]
    pooler = getattr(model.base_model, "pooler", None)
    return modules if pooler is None else [pooler, *modules]


def _opened(folder: Path) -> tuple[Contents, Reader]:
    """Return what a folder's files hold, and what reads them.

    Raises:
        CheckpointError: config.json isn't of these files, or they can't be read.
    """
    contents = quantized.contents(folder)
    shapes = (tensor.shape for tensor in contents.tensors.values())
    sizes.check_files(folder / headers.CONFIG, headers.config(folder), shapes)
    return contents, Reader(folder, contents)


def adapters_base(
    adapters_on_it: Sequence[Adapter],
    folder: Path,
    base: Path,
    card: Card,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
) -> transformers.PreTrainedModel:
    """Return the base of some adapters, whose heads are alike; `folder` is the first one's.

    What each of them saves may be missing in the base, and has no numbers then.

    Raises:
        CheckpointError: It can't be served with the right numbers; says which tensor.
    """
    if card.heads or card.policy is not None or card.trunk.layout != "transformers":
        raise CheckpointError(
            f"{folder} is an adapter; with [heads], [policy] or a [trunk] layout in its card it "
            "must be merged into its base first (peft's merge_and_unload, then save_pretrained)"
        )
    config = _config(adapters.config_folder(folder, base), None)
    brought = adapters_on_it[0].labels
    labels, expected = brought or config.num_labels, max(1, len(card.score.outputs))
    if labels != expected:
        raise CheckpointError(
            f"the head of {folder} gives {labels} numbers; a reward head gives one, or a card "
            f"names them, and this one names {len(card.score.outputs)}: [score] outputs"
        )
    config.num_labels = labels
    _, reader = _opened(base)
    kind = transformers.AutoModelForSequenceClassification
    model, report = _from_files(base, reader, kind, config, card, device, dtype)
    saved = set.intersection(*(adapter.saved(model) for adapter in adapters_on_it))
    if missing := set(report["missing_keys"]) - saved:
        raise CheckpointError(
            f"neither the adapter {folder} nor its base {base} has {_listed(missing)}; it would be "
            "filled with random numbers. A head is saved with modules_to_save"
        )
    report["missing_keys"] = []
    report["mismatched_keys"] = [
        mismatch for mismatch in report["mismatched_keys"] if mismatch[0] not in saved
    ]
    unused = [*card.trunk.unused, *(_OUTPUT_EMBEDDINGS if brought else ())]
    _check_complete(base, report, used=(), unused=unused)
    model.to(device)
    _restore_head_precision(model, reader)  # before the adapter's own head, or its part, goes on it
    return still(model)


def _absent(base: str) -> Path:
    raise CheckpointError(f"the adapter's base '{base}' is to be fetched from the hub first")


def _config(folder: Path, architecture: Any | None) -> Any:
    """Return config.json as the card's class has it, or as its model_type says."""
    headers.config(folder)
    try:
        if architecture is not None:
            return architecture.config_class.from_pretrained(folder, local_files_only=True)
        return transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder}/config.json can't be used: {_first_line(error)}"
        ) from error


def _check_needs_no_code(folder: Path) -> None:
    """Refuse a class that only the checkpoint's own code has."""
    said = headers.config(folder)
    named = (said.get("architectures") or ["none"])[0]
    if "auto_map" in said and not hasattr(transformers, named):
        raise CheckpointError(
            f"{folder}: the class '{named}' is in code of the checkpoint's own (auto_map), which "
            "isn't run. Once you have read it, this runs it for the model that you serve as NAME, "
            f"in its worker process: --trust-remote-code NAME@{code.digest(folder)}"
        )


def _architecture(config: Any, labels: int) -> Any:
    """Return transformers' class for the checkpoint; anything but a reward head is refused."""
    named = (getattr(config, "architectures", None) or ["none"])[0]
    if not named.endswith(SUFFIX):
        raise CheckpointError(
            f"config.json names the architecture '{named}', which has no reward head; Assay serves "
            f"checkpoints of class …{SUFFIX}, and others by a card: `assay inspect` says which"
        )
    architecture = getattr(transformers, named, None)
    if architecture is None:
        raise CheckpointError(
            f"transformers {transformers.__version__} has no class '{named}'; checkpoints that "
            "bring their own code are not run"
        )
    if config.num_labels != labels:
        raise CheckpointError(
            f"config.json declares {config.num_labels} labels; "
            + (
                "a reward head has one (num_labels=1), or a card names them: [score] outputs"
                if labels == 1
                else f"the card's [score] outputs names {labels}"
            )
        )
    return architecture


def _trunk_class(card: Card) -> Any | None:
    """Return the class that the card names, if it does."""
    named = card.trunk.architecture
    architecture = getattr(transformers, named, None) if named else None
    if named and architecture is None:
        raise CheckpointError(
            f"trunk.architecture: transformers {transformers.__version__} has no class '{named}'"
        )
    return architecture


def _from_files(
    folder: Path,
    reader: Reader,
    architecture: Any,
    config: Any,
    card: Card,
    device: torch.device,
    dtype: torch.dtype | None,
) -> tuple[transformers.PreTrainedModel, dict[str, Any]]:
    prefix = card.trunk.prefix
    state: dict[str, Any] | None = None
    if device == _OUTLINE:
        state = _outline(reader.contents)
    elif reader.contents.packed:
        state = reader.deferred()
    config.transformers_weights = reader.contents.weights.name
    if reader.contents.packed:
        _forget_quantization(config)
    if state is not None:
        architecture = _named_class(architecture, config)
    try:
        model, report = architecture.from_pretrained(
            folder if state is None else None,
            config=config,
            state_dict=state,
            dtype="auto" if dtype is None else dtype,
            device_map=_placement(device),
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused below by name
            key_mapping=None if prefix is None else {f"^{re.escape(prefix)}": ""},
        )
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        if faults.is_fault(error):
            raise
        raise CheckpointError(f"{folder} can't be loaded: {_first_line(error)}") from error
    return model, report


def _placement(device: torch.device) -> dict[str, torch.device] | None:
    """Return where transformers puts what it reads; None where it goes to memory first.

    Straight to a GPU each tensor passes through the host alone. That takes the package accelerate;
    without it the host must hold the whole model once, and `load` moves it (16 GB and some seconds
    more for 8B in 16 bits).
    """
    straight = device.type != "cpu" and is_accelerate_available()
    return {"": device} if straight else None


def _outline(contents: Contents) -> dict[str, torch.Tensor]:
    """Return every tensor of a folder without its numbers."""
    return {
        name: torch.empty(tensor.shape, dtype=torch.float32, device=_OUTLINE)
        for name, tensor in contents.tensors.items()
    }


def _forget_quantization(config: Any) -> None:
    """Take from a config what would have transformers quantize a model whose weights aren't."""
    for part in (config, config.get_text_config()):
        for key in quantized.KEYS:
            if hasattr(part, key):
                delattr(part, key)


def _named_class(architecture: Any, config: Any) -> Any:
    """Return the class that an auto class stands for."""
    automatic = (transformers.AutoModel, transformers.AutoModelForSequenceClassification)
    if architecture not in automatic:
        return architecture
    with _OUTLINE:
        return type(architecture.from_config(config))


def _readout(card: Card, folder: Path, tensors: _Tensors) -> Readout:
    if card.policy is not None:
        return Readout("last", NextToken(VocabularyHead(tensors(VOCABULARY))))
    # Heads that begin with the same layers hold the same tensors.
    files = dict.fromkeys(head.file for head in card.heads.values())
    found = {file: functools.cache(tensors.of(folder, file)) for file in files}
    heads = {name: Head(head, found[head.file]) for name, head in card.heads.items()}
    at = card.read.at if card.read else "last"
    return Readout(at if at in ("first", "mean") else "last", CardHeads(heads))


class _Tensors:
    """The tensors of a folder by name, in float32 on the device; notes which were asked for."""

    def __init__(
        self,
        folder: Path,
        reader: Reader,
        model: transformers.PreTrainedModel,
        device: torch.device,
    ) -> None:
        self.used: set[str] = set()
        self._folder = folder
        self._reader = reader
        self._known = reader.contents.tensors
        self._model = model
        self._device = device

    def __call__(self, name: str) -> torch.Tensor:
        """Return a tensor of the trunk's files.

        Raises:
            CheckpointError: There is none of that name; the message lists the likely ones.
        """
        if name == VOCABULARY:
            return self._vocabulary()
        if name not in self._known:
            near = difflib.get_close_matches(name, self._known, cutoff=0.3)
            raise CheckpointError(
                f"{self._folder} has no tensor '{name}', which the card names; the nearest are "
                f"{_listed(near) or 'none'}"
            )
        self.used.add(name)
        if self._device == _OUTLINE:
            return torch.empty(self._known[name].shape, device=_OUTLINE)
        return self._reader(name).to(self._device, torch.float32)

    def of(self, folder: Path, file: str | None) -> Callable[[str], torch.Tensor]:
        """Return the function from a name to a tensor of a file of its own, or of the trunk's."""
        if file is None:
            return self
        path, own_tensors = _read_head(folder, file)

        def find(name: str) -> torch.Tensor:
            if name not in own_tensors:
                raise CheckpointError(
                    f"{path} has no tensor '{name}', which the card names; it has "
                    f"{_listed(own_tensors)}"
                )
            return own_tensors[name].to(self._device, torch.float32)

        return find

    def _vocabulary(self) -> torch.Tensor:
        """Return the output embedding, (tokens, hidden): of its own, or the input's."""
        for name in _OUTPUT_EMBEDDINGS:
            if name in self._known:
                return self(name)
        if not self._model.config.get_text_config().tie_word_embeddings:
            raise CheckpointError(
                f"{self._folder} has no output embedding ({_listed(_OUTPUT_EMBEDDINGS)}), and its "
                "config.json doesn't tie it to the input's"
            )
        weight: torch.Tensor = self._model.get_input_embeddings().weight
        return weight.to(self._device, torch.float32)


def _read_head(folder: Path, name: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """Return the file in which a head lies, and its tensors.

    Raises:
        CheckpointError: There is none, or it lies there under two names with two values.
    """
    there = [path for path in headers.head_files(folder, name) if path.is_file()]
    if not there:
        raise CheckpointError(f"{folder / name} is missing; the card reads a head from it")
    first, *others = [(path, _read_head_file(path)) for path in there]
    for path, tensors in others:
        if not _are_equal(first[1], tensors):
            raise CheckpointError(
                f"{first[0]} and {path} hold two heads that aren't equal; move away the one that "
                "isn't meant"
            )
    return first


def _are_equal(tensors: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == other.keys() and all(
        torch.equal(tensors[n], other[n]) for n in tensors
    )


def _read_head_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError(
            f"{path} can't be read as plain tensors ({type(error).__name__})"
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds no tensors by name")
    return {name: tensor for name, tensor in loaded.items() if isinstance(tensor, torch.Tensor)}


def _unread_output(card: Card) -> tuple[str, ...]:
    """Return the output embedding's names where a card's own heads don't read it."""
    if not card.has_reward_head:
        return ()
    layers = [layer for head in card.heads.values() for layer in head.layers]
    reads_it = any(layer.op == "vocabulary" for layer in layers)
    return () if reads_it else _OUTPUT_EMBEDDINGS


def _check_complete(
    folder: Path, report: dict[str, Any], *, used: Collection[str], unused: Iterable[str]
) -> None:
    missing = report["missing_keys"]
    left_over = [
        name
        for name in report["unexpected_keys"]
        if name not in used and not any(fnmatchcase(name, pattern) for pattern in unused)
    ]
    misshapen = [entry[0] for entry in report["mismatched_keys"]]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {_listed(missing)}; it would be filled with random numbers. Is this "
            "the trained reward model, or its base?"
        )
    if misshapen:
        raise CheckpointError(f"{folder}: {_listed(misshapen)} has another shape than config.json")
    if left_over:
        raise CheckpointError(
            f"{folder} holds {_listed(left_over)}, which this architecture doesn't read; the "
            "model would not be the one that was trained. If no score needs them, a card's "
            "[trunk] unused names them"
        )


def _restore_head_precision(model: transformers.PreTrainedModel, reader: Reader) -> None:
    """Turn the head to float32, from the file's own numbers where the trunk's dtype cut them."""
    if model.device == _OUTLINE:
        return
    in_head = {id(parameter) for module in head_modules(model) for parameter in module.parameters()}
    for module in head_modules(model):
        module.float()
    for name, parameter in model.named_parameters():
        if id(parameter) in in_head and name in reader.contents.tensors:
            parameter.data = reader(name).to(parameter.device, torch.float32)


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in ordered[:_SHOWN]) + more


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
