"""Which head tensors stand together in which family's files, and the catalogue's card of it.

Where several families write the same files a layout has several cards: which one it is can't be
told, and `recognise` refuses with their names. What a card says is the card's alone, but for the
few numbers that a family keeps in config.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from assay.cards.card import Statistics
from assay.cards.mechanism import Linear, Mean, Read, Softmax, Standardize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from assay.cards.card import Card
    from assay.cards.mechanism import Layer
    from assay.cards.parts import Parts

_MOMENTS = ("mean", "std")
_FLAT = 1e-8  # OpenRLHF writes no std below


@dataclass(frozen=True, slots=True)
class Layout:
    """Head tensors by name patterns: each is there, and no other but the `optional`.

    `rows` are how many numbers some layers give; `config` are patterns of what config.json has,
    of a list its first, "" where it has nothing. `tuned` puts config.json's numbers into the card.
    """

    tensors: tuple[str, ...]
    cards: tuple[str, ...]
    optional: tuple[str, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    doubt: str | None = None
    tuned: Callable[[Card, Parts], Card] | None = None

    def fits(self, parts: Parts) -> bool:
        """Whether a checkpoint's head tensors and config.json are this layout's."""
        names = parts.heads.keys()
        patterns = (*self.tensors, *self.optional)
        return (
            all(any(fnmatchcase(name, pattern) for name in names) for pattern in self.tensors)
            and all(any(fnmatchcase(name, pattern) for pattern in patterns) for name in names)
            and all(parts.rows(name) == count for name, count in self.rows.items())
            and all(
                fnmatchcase(parts.declared(key), pattern) for key, pattern in self.config.items()
            )
        )


def tuned(card: Card, parts: Parts) -> Card:
    """Return a catalogue's card with the numbers that its family keeps in config.json."""
    change = _TUNED.get(card.family or "")
    return change(card, parts) if change is not None and card.heads else card


def keeps_numbers(card: Card) -> bool:
    """Whether a card's family keeps some of its numbers in config.json."""
    return card.family in _TUNED


def _openrlhf(card: Card, parts: Parts) -> Card:
    """OpenRLHF names its head in config.json, and has its rewards' mean and std there."""
    said = parts.declared("value_head_prefix")
    names = (f"{prefix}.weight" for prefix in (said, "value_head", "score") if prefix)
    weight = next((name for name in names if name in parts.heads), None)
    changed = card if weight is None else _with_layers(card, [Linear(op="linear", weight=weight)])
    return moments(changed, parts)


def moments(card: Card, parts: Parts) -> Card:
    """Return an OpenRLHF card with the mean and std of config.json, unless it has its own.

    They are those of its evaluation set. It normalizes with them only where it is told to; else
    they are what a caller's `normalize` asks for.
    """
    mean, std = parts.number("mean"), parts.number("std")
    has_own = card.statistics is not None or not card.score.model_fields_set.isdisjoint(_MOMENTS)
    if card.family != "OpenRLHF" or has_own or mean is None or std is None or std <= _FLAT:
        return card
    if not parts.config.get("normalize_reward"):
        return card.model_copy(update={"statistics": Statistics(mean=mean, std=std)})
    score = card.score.model_copy(update={"mean": mean, "std": std})
    done = Statistics(mean=0.0, std=1.0)  # what the scores have by then
    return card.model_copy(update={"score": score, "statistics": done})


def _internlm2(card: Card, parts: Parts) -> Card:
    """InternLM2 has the id of the token that is put behind everything in config.json."""
    token = parts.number("reward_token_id")
    if token is None:
        return card
    changes = {"append": [int(token)], "expected_read_token": None}
    return card.model_copy(update={"template": card.template.model_copy(update=changes)})


def _open_assistant(card: Card, parts: Parts) -> Card:
    """OpenAssistant reads the last token, or the mean of all where config.json says so."""
    is_mean = parts.declared("pooling") == "mean"
    return card.model_copy(update={"read": Read(at="mean")}) if is_mean else card


def _beaver(card: Card, parts: Parts) -> Card:
    """safe-rlhf normalizes where config.json says so: a reward's mean and scale, a cost's scale."""
    bias = "score_head.bias" if "score_head.bias" in parts.heads else None
    layers: list[Layer] = [Linear(op="linear", weight="score_head.weight", bias=bias)]
    unused = ["normalizer.count"]
    if not parts.config.get("do_normalize"):
        unused = ["normalizer.*"]
    elif parts.declared("score_type") == "cost":
        layers.append(Standardize(op="standardize", var="normalizer.var"))
        unused = ["normalizer.mean", "normalizer.count"]
    else:
        layers.append(Standardize(op="standardize", mean="normalizer.mean", var="normalizer.var"))
    trunk = card.trunk.model_copy(update={"unused": unused})
    return _with_layers(card, layers).model_copy(update={"trunk": trunk})


def _named_beaver(card: Card, parts: Parts) -> Card:
    """A card that was named says which score it is; config.json may say that it is normalized.

    A bias is read wherever the files have one.
    """
    if not parts.config.get("do_normalize"):
        bias = "score_head.bias" if "score_head.bias" in parts.heads else None
        first, *others = card.heads["reward"].layers
        return _with_layers(card, [first.model_copy(update={"bias": bias}), *others])
    is_cost = card.score.transform == "negate"
    said = {**parts.config, "score_type": "cost" if is_cost else "reward"}
    return _beaver(card, replace(parts, config=said))


def _gated(card: Card, parts: Parts) -> Card:
    """ArmoRM and QRM have the gate's temperature and the number of quantiles in config.json."""
    temperature, quantiles = parts.number("gating_temperature"), parts.number("num_quantiles")
    rows = parts.rows("regression_layer.weight")

    def changed(layer: Layer) -> Layer:
        if isinstance(layer, Softmax) and temperature:
            return layer.model_copy(update={"temperature": float(temperature)})
        is_by_number = isinstance(layer, Mean) or (isinstance(layer, Linear) and layer.groups > 1)
        if is_by_number and quantiles and rows % int(quantiles) == 0:
            return layer.model_copy(update={"groups": rows // int(quantiles)})
        return layer

    heads = {
        name: head.model_copy(update={"layers": [changed(layer) for layer in head.layers]})
        for name, head in card.heads.items()
    }
    return card.model_copy(update={"heads": heads})


_TUNED: dict[str, Callable[[Card, Parts], Card]] = {
    "ArmoRM": _gated,
    "Beaver": _named_beaver,
    "InternLM2-reward": _internlm2,
    "OpenAssistant": _open_assistant,
    "OpenRLHF": _openrlhf,
    "QRM": _gated,
}


def _with_layers(card: Card, layers: list[Layer]) -> Card:
    reward = card.heads["reward"].model_copy(update={"layers": layers})
    return card.model_copy(update={"heads": {**card.heads, "reward": reward}})


_LLAMA = {"model_type": "llama"}
_QWEN2 = {"model_type": "qwen2"}
_MLP = ("score.0.weight", "score.0.bias", "score.2.weight", "score.2.bias")
_SUMMARY = ("v_head.summary.weight", "v_head.summary.bias")
_GATED = ("regression_layer.weight", "reward_transform_matrix", "gating.*")
_QUANTILES = (*_GATED, "gating.layers.*.running_mean")
_BEAVER = ("score_head.bias", "normalizer.*")
_OPENRLHF = ("openrlhf-reward-model",)

# The first that fits decides.
LAYOUTS = (
    Layout(("value_head.weight", "prompt_head.weight"), ("gpm-llama-3.1-8b",), config=_LLAMA),
    Layout(("*.weight",), _OPENRLHF, config={"value_head_prefix": "?*"}, tuned=_openrlhf),
    Layout(("value_head.weight",), _OPENRLHF, rows={"value_head.weight": 1}, tuned=_openrlhf),
    Layout(
        _MLP,
        ("qwen2.5-math-prm-7b",),
        rows={"score.2.weight": 2},
        config=_QWEN2,
        doubt="models/reasonflux-prm-7b writes the same files and has no system turn",
    ),
    Layout(
        _MLP,
        ("qwen2.5-math-rm-72b",),
        rows={"score.2.weight": 1},
        config=_QWEN2,
        doubt="WorldPM writes the same files and has another system turn",
    ),
    Layout(_MLP, ("inf-orm-llama3.1-70b",), rows={"score.2.weight": 1}, config=_LLAMA),
    Layout(
        ("score.weight",),
        ("trl-prm",),
        optional=("score.bias",),
        rows={"score.weight": 2},
        config={"architectures": "*ForTokenClassification"},
        doubt=r"no file says what separates the steps; '\n' is TRL's default",
    ),
    Layout(_QUANTILES, ("qrm-llama3-8b",), config=_LLAMA, tuned=_gated),
    Layout(_GATED, ("armorm-llama3-8b-v0.1",), config=_LLAMA, tuned=_gated),
    Layout(
        ("score.weight", "weights.fc.*"),
        ("urm-llama-3-8b",),
        rows={"score.weight": 10},
        config=_LLAMA,
    ),
    Layout(
        _SUMMARY,
        ("skywork-o1-open-prm-qwen-2.5-1.5b",),
        config={"architectures": "Qwen2ForPrmModel"},
    ),
    Layout(_SUMMARY, ("grm-linear-head",), config={"vhead_layer_type": "linear"}),
    Layout(_SUMMARY, ("grm-linear-head", "skywork-o1-open-prm-qwen-2.5-1.5b")),
    Layout(("v_head.summary.0.*", "v_head.summary.2.*"), ("grm-llama3-8b-sftreg",)),
    Layout(
        ("v_head.weight",),
        ("internlm2-1_8b-reward",),
        config={"model_type": "internlm2"},
        doubt="POLAR writes the same files and reads a reference answer too",
        tuned=_internlm2,
    ),
    Layout(("v_head.weight",), ("athene-rm-8b", "starling-rm-7b-alpha", "starling-rm-34b")),
    Layout(("regression_head.weight",), ("ultrarm-13b", "eurus-rm-7b")),
    Layout(
        ("out_proj.weight", "out_proj.bias"),
        ("oasst-rm-2.1-pythia-1.4b",),
        config={"model_type": "gpt_neox*"},
        tuned=_open_assistant,
    ),
    Layout(
        ("score_head.weight",),
        ("beaver-7b-v1.0-cost",),
        optional=_BEAVER,
        rows={"score_head.weight": 1},
        config={"score_type": "cost"},
        tuned=_beaver,
    ),
    Layout(
        ("score_head.weight",),
        ("beaver-7b-v1.0-reward",),
        optional=_BEAVER,
        rows={"score_head.weight": 1},
        config={"score_type": "reward"},
        tuned=_beaver,
    ),
    Layout(
        ("score_head.weight",),
        ("beaver-7b-v1.0-reward",),
        optional=_BEAVER,
        rows={"score_head.weight": 1},
        config={"score_type": ""},
        doubt="config.json doesn't say whether it scores a reward or a cost ('score_type'); "
        "taken for a reward",
        tuned=_beaver,
    ),
    Layout(("head_layer.1.*", "head_layer.4.*"), ("pairrm",), config={"model_type": "deberta-v2"}),
)
