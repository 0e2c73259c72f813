"""A checkpoint without a card, recognised by its files: the tensors' names first, then config.json.

Only what the files decide is recognised. Where several families write the same files the refusal
names them and says what to do. No weight is read, and nothing of a checkpoint's own code is run.
Which heads are whose: `layouts`. What is served by the name of a card isn't recognised at all.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from assay.cards import card as cards
from assay.cards import catalogue, code, headers, layouts, parts, quantized
from assay.cards.mechanism import BatchNorm, Head, Linear, Scale, Standardize, Trunk
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from assay.cards.card import Card
    from assay.cards.mechanism import Layer
    from assay.cards.parts import Parts

CLASSIFIER = "ForSequenceClassification"
STEPS = "ForTokenClassification"
STOCK = "sequence-classification"
# What of a catalogue's card is the family's, not the one checkpoint's.
FAMILYS = (
    *("trunk", "template", "steps", "read", "heads"),
    *("score", "spread", "preference", "limits"),
)
_STOCK_LAST = (
    "score.weight",
    "classifier.weight",
    "classifier.out_proj.weight",
    "classification_head.out_proj.weight",
    "logits_proj.weight",
)
_DECODERS_LAST = "score.weight"
_STOCK_PARTS = frozenset(
    {
        *("score", "classifier", "classification_head", "logits_proj"),
        *("pre_classifier", "pooler", "head", "sequence_summary"),
    }
)
_VALUE_HEAD = "value_head.safetensors"
_VALUE_HEAD_CARD = "trl-value-head"
_PICKLED = {
    "value_head.bin": "llama-factory-value-head",
    "regression_layer.pt": "ldl-reward-gemma-2-27b-v0.1",
}
_READ_THE_VOCABULARY = (
    "math-shepherd-mistral-7b-prm",
    "llama3.1-8b-prm-deepseek-data",
    "llama-3.1-nemotron-70b-reward-hf",
    "pair-preference-model-llama3-8b",
    "qwen3-reranker-0.6b",
    "zephyr-7b-beta",
)
_LABELLED = "helpsteer2-regression"
_SHOWN = 5
# transformers' classifiers that see, too, and the class of their language part; what its tensors'
# names begin with: as published, and as transformers names them in memory.
_SEEING = {"Gemma3ForSequenceClassification": "Gemma3TextModel"}
_LANGUAGE = ("language_model.model.", "model.language_model.")


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a checkpoint was taken for; `doubts` are what its files leave open, a clause each.

    `notes` change no number.
    """

    family: str
    card: Card
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def recognise(folder: Path) -> Recognised:
    """Return what a checkpoint without a card is, from config.json and its tensors' names.

    Raises:
        CheckpointError: It isn't a reward model, or its files are those of several families, or of
            none; the message says what to write into a card.
    """
    adapter = _adapter(folder)
    if adapter is not None:
        return adapter
    quantized.check(folder)
    checkpoint = parts.of(folder)
    recognised = _with_vision(checkpoint) or _separate(checkpoint) or _by_layout(checkpoint)
    recognised = recognised or _stock(checkpoint)
    if recognised is None:
        command = _command(_candidates(checkpoint), folder)
        raise CheckpointError(
            f"{command}{command and ': '}{folder} {_refusal(checkpoint)}{_own_code(checkpoint)}"
        )
    card = _without_output_embedding(recognised.card, checkpoint)
    check(checkpoint, card)
    notes: tuple[str, ...] = ()
    if "auto_map" in checkpoint.config:
        notes = ("the checkpoint brings code of its own (auto_map), which is not run",)
    return Recognised(recognised.family, card, recognised.doubts, notes)


# --- what is recognised -----------------------------------------------------------------------


def _adapter(folder: Path) -> Recognised | None:
    """Return an adapter whose base is a folder here; one whose base isn't is refused."""
    path = folder / "adapter_config.json"
    if not path.is_file() or headers.has_weights(folder):
        return None
    base = str(headers.json_object(path).get("base_model_name_or_path") or "")
    if not base or not (Path(base).is_dir() or (folder / base).is_dir()):
        raise CheckpointError(
            f"{folder} is an adapter of '{base or 'a model it does not name'}', which isn't here; "
            "merge it into its base (merge_and_unload of peft) and serve the folder that "
            "save_pretrained writes"
        )
    doubt = f"an adapter over {base}: its numbers are right only once both are merged"
    return Recognised("adapter", cards.Card(), (doubt,))


def _with_vision(checkpoint: Parts) -> Recognised | None:
    """Return the language part of a class that also sees, with its head; images aren't served."""
    text_class = _SEEING.get(checkpoint.architecture)
    names = [*checkpoint.trunk, *checkpoint.heads]
    if text_class is None or not any(".vision_tower." in f".{name}" for name in names):
        return None
    prefix = next(
        (prefix for prefix in _LANGUAGE if any(n.startswith(prefix) for n in names)), None
    )
    if prefix is None or checkpoint.rows("score.weight") != 1:
        return None
    head = Head(layers=[Linear(op="linear", weight="score.weight")])
    around = "model." if prefix.startswith("model.") else ""
    unused = [f"{around}vision_tower.*", f"{around}multi_modal_projector.*"]
    trunk = Trunk(architecture=text_class, prefix=prefix, unused=unused)
    return Recognised(STOCK, cards.Card(trunk=trunk, heads={"reward": head}))


def _separate(checkpoint: Parts) -> Recognised | None:
    """Return a language model with a value head beside it, as TRL and LLaMA-Factory write it."""
    if checkpoint.heads:
        return None
    if _VALUE_HEAD in checkpoint.beside:
        head = headers.in_files([checkpoint.folder / _VALUE_HEAD])
        if head.keys() != {"v_head.summary.weight", "v_head.summary.bias"}:
            raise CheckpointError(
                f"{checkpoint.folder / _VALUE_HEAD} holds {_listed(head)}, not one linear "
                f"v_head.summary; {_write_a_card(head)}"
            )
        doubt = "LLaMA-Factory trains with templates of its own; the tokenizer's is taken"
        card = _catalogued(_VALUE_HEAD_CARD)
        return Recognised(card.family or _VALUE_HEAD_CARD, card, (doubt,))
    for file, name in _PICKLED.items():
        if file in checkpoint.beside:
            raise CheckpointError(
                f"{checkpoint.folder} has its head in {file}; separate head files in .pt or .bin "
                f"load only when a card names them: {_take_a_card((name,))}"
            )
    return None


def _by_layout(checkpoint: Parts) -> Recognised | None:
    """Return what the first fitting layout's card says; several cards are refused."""
    layout = next((layout for layout in layouts.LAYOUTS if layout.fits(checkpoint)), None)
    if layout is None:
        return None
    name, *others = layout.cards
    card = _catalogued(name)
    if any(_mechanism(_catalogued(other)) != _mechanism(card) for other in others):
        raise CheckpointError(
            f"{_command(layout.cards, checkpoint.folder)}: it holds {_listed(checkpoint.heads)}, "
            f"which several families write; or {_take_a_card(layout.cards)}{_own_code(checkpoint)}"
        )
    if layout.tuned is not None:
        card = layout.tuned(card, checkpoint)
    return Recognised(card.family or name, card, (layout.doubt,) if layout.doubt else ())


def _mechanism(card: Card) -> dict[str, object]:
    return card.model_dump(include={*FAMILYS})


def is_stock(checkpoint: Parts, labels: int) -> bool:
    """Whether a checkpoint is of transformers' own class, with a head of so many labels."""
    last = next((name for name in _STOCK_LAST if name in checkpoint.heads), None)
    return (
        last is not None
        and checkpoint.rows(last) == labels == headers.labels(checkpoint.config)
        and {name.split(".")[0] for name in checkpoint.heads} <= _STOCK_PARTS
        and checkpoint.architecture.endswith(CLASSIFIER)
    )


def is_language_model(checkpoint: Parts) -> bool:
    """Whether a checkpoint is a language model, without a head in or beside its files."""
    return (
        not checkpoint.heads
        and not checkpoint.strange
        and checkpoint.architecture.endswith("ForCausalLM")
        and checkpoint.beside.isdisjoint({_VALUE_HEAD, *_PICKLED})
    )


def _stock(checkpoint: Parts) -> Recognised | None:
    """Return transformers' own class with one label, or its one linear layer by name."""
    last = next((name for name in _STOCK_LAST if name in checkpoint.heads), None)
    names = {name.split(".")[0] for name in checkpoint.heads}
    if last is None or checkpoint.rows(last) != 1 or not names <= _STOCK_PARTS:
        return None
    named = checkpoint.architecture
    if (
        named.endswith(CLASSIFIER)
        and not checkpoint.output
        and headers.labels(checkpoint.config) == 1
    ):
        return Recognised(STOCK, cards.Card())
    if checkpoint.heads.keys() - {"score.weight", "score.bias"} or named.endswith(STEPS):
        return None
    bias = "score.bias" if "score.bias" in checkpoint.heads else None
    head = Head(layers=[Linear(op="linear", weight="score.weight", bias=bias)])
    doubt = f"config.json names '{named}', but the files hold a head of one label"
    if named.endswith(CLASSIFIER):
        doubt = _one_row(checkpoint, last)
    return Recognised(STOCK, cards.Card(heads={"reward": head}), (doubt,))


def _catalogued(name: str) -> Card:
    """Return what a card of the catalogue says of its family."""
    folder = catalogue.embedded() / name
    if not (folder / cards.FILE_NAME).is_file():
        raise CheckpointError(f"the catalogue lacks {name}; install Assay anew")
    card = cards.read(folder)
    said = {table: getattr(card, table) for table in FAMILYS}
    return cards.Card(family=card.family or name, **said)


def _without_output_embedding(card: Card, checkpoint: Parts) -> Card:
    """Return the card with the output embedding unused, where it is there and no head reads it."""
    layers = [layer for head in card.heads.values() for layer in head.layers]
    if not layers or any(layer.op in ("vocabulary", "log_probability") for layer in layers):
        return card
    left = [name for name in sorted(checkpoint.output) if not _is_unused(name, card.trunk)]
    if not left:
        return card
    trunk = card.trunk.model_copy(update={"unused": [*card.trunk.unused, *left]})
    return card.model_copy(update={"trunk": trunk})


# --- what isn't -------------------------------------------------------------------------------


def check(checkpoint: Parts, card: Card) -> None:
    """Refuse a checkpoint whose tensors aren't those that the card of its family names."""
    if not card.heads:
        return
    named = set(_named(card))
    lost = named - checkpoint.heads.keys() - checkpoint.trunk - checkpoint.output
    left = {n for n in checkpoint.heads.keys() - named if not _is_unused(n, card.trunk)}
    if lost or left:
        raise CheckpointError(
            f"{checkpoint.folder} looks like {card.family or STOCK}, but "
            + (f"lacks {_listed(lost)}" if lost else f"holds {_listed(left)} too")
            + f"; {_write_a_card(checkpoint.heads)}"
        )


def _refusal(checkpoint: Parts) -> str:
    """Say why a checkpoint that nothing fits can't be served without a card."""
    named = checkpoint.architecture or "no architecture"
    if said := _of_labels(checkpoint):
        return said
    if unknown := checkpoint.heads or checkpoint.strange:
        return (
            f"holds {_listed(unknown)} beside its trunk, which is no head of a family that Assay "
            f"knows; {_write_a_card(unknown)}"
        )
    if checkpoint.config.get("is_encoder_decoder"):
        return f"is an encoder-decoder ({named}), which Assay doesn't serve"
    if named.endswith(CLASSIFIER):
        return (
            f"is {named} without its head's tensors: this is the base, not the trained reward model"
        )
    if "modules.json" in checkpoint.beside or named.endswith("Model"):
        return (
            f"is an embedding or base model ({named}) without a head, which gives vectors, not "
            "scores; serve a reward model, or name its head's tensors in a card.toml"
        )
    return (
        f"is a language model ({named}) without a reward head; policies, rerankers and step models "
        "that answer with a token can't be told apart by their files: "
        + _take_a_card(_READ_THE_VOCABULARY)
    )


def _of_labels(checkpoint: Parts) -> str:
    """Say what is wrong with the labels of a head that transformers' own classes have."""
    last = next((name for name in _STOCK_LAST if name in checkpoint.heads), None)
    rows = 0 if last is None else checkpoint.rows(last)
    if last is not None and rows == 1 and checkpoint.architecture.endswith(CLASSIFIER):
        return f"is {checkpoint.architecture}, and {_one_row(checkpoint, last)}"
    if rows > 1:
        return (
            f"has {rows} labels ('{last}'), and no file says which is the score; write a card.toml "
            f"with [score] outputs = [{rows} names] and index or weights, as models/{_LABELLED} "
            f"has (config.json's num_labels: {headers.labels(checkpoint.config)})"
        )
    return ""


def _one_row(checkpoint: Parts, last: str) -> str:
    """Say what to write where config.json has other labels than a head of one row."""
    labels = headers.labels(checkpoint.config)
    says = "id2label" in checkpoint.config or "num_labels" in checkpoint.config
    return (
        f"config.json {f'says {labels} labels' if says else 'says no labels, which is two'}, and "
        f"the head '{last}' has one row; if that is the reward, put "
        '"id2label": {"0": "score"} (num_labels = 1) into config.json'
    )


def _candidates(checkpoint: Parts) -> list[str]:
    """Return the catalogue's cards that such files could be of, where nothing else fits them."""
    last = next((name for name in _STOCK_LAST if name in checkpoint.heads), None)
    if last is not None and is_stock(checkpoint, rows := checkpoint.rows(last)):
        return [
            name
            for name, card in catalogue.without_weights(catalogue.embedded())
            if len(card.score.outputs) == rows
            and not card.heads
            and last == _DECODERS_LAST  # these families are decoders
            and checkpoint.declared("model_type").startswith(catalogue.kind(name, card))
        ]
    return [*_READ_THE_VOCABULARY] if is_language_model(checkpoint) else []


def _command(names: Sequence[str], folder: Path) -> str:
    """Return the command that settles whose files these are, and its other arguments."""
    if not names:
        return ""
    first, *others = names
    also = f" (or {', '.join(f'{other}=…' for other in others)})" if others else ""
    return f"give the card's name: assay serve {first}={shlex.quote(str(folder))}{also}"


def _take_a_card(names: Iterable[str]) -> str:
    listed = ", ".join(f"models/{name}" for name in names)
    return f"copy the card.toml of its family beside config.json, such as that of {listed}"


def _write_a_card(names: Iterable[str]) -> str:
    weight = next((name for name in sorted(names) if name.endswith(".weight")), "…")
    return (
        "write a card.toml with its layers, such as [heads.reward] "
        f'layers = [{{ op = "linear", weight = "{weight}" }}]'
    )


def _own_code(checkpoint: Parts) -> str:
    if "auto_map" not in checkpoint.config:
        return ""
    return (
        "; the checkpoint's own code (auto_map) is not run, but where it is read and trusted: "
        + code.option("NAME", code.digest(checkpoint.folder))
    )


def _is_unused(name: str, trunk: Trunk) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in trunk.unused)


def _named(card: Card) -> Iterator[str]:
    """Yield the tensors that a card's heads read from the trunk's files."""
    for head in card.heads.values():
        if head.file is None:
            for layer in head.layers:
                yield from _of_layer(layer)


def _of_layer(layer: Layer) -> Iterator[str]:
    match layer:
        case Linear(weight=weight, bias=bias):
            yield from (name for name in (weight, bias) if name)
        case BatchNorm(name=name):
            yield from (
                f"{name}.{suffix}" for suffix in ("weight", "bias", "running_mean", "running_var")
            )
        case Standardize(mean=mean, var=var):
            yield from (name for name in (mean, var) if name)
        case Scale(factor=str(name)):
            yield name


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in ordered[:_SHOWN]) + more
