"""Families that give several numbers: attributes, gates, quantiles, distributions."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from tests.families import tokenizers
from tests.families.layout import (
    ITEMS,
    Expected,
    Item,
    Layout,
    Tensors,
    encode,
    hidden,
    model,
    random,
    read,
    save,
    tensors,
)
from tests.families.scalar import gemma_text, headed, llama3_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
ARMORM = (
    *(f"helpsteer-{name}" for name in HELPSTEER),
    "ultrafeedback-overall_score",
    "ultrafeedback-instruction_following",
    "ultrafeedback-truthfulness",
    "ultrafeedback-honesty",
    "ultrafeedback-helpfulness",
    "beavertails-is_safe",
    "prometheus-score",
    "argilla-overall_quality",
    "argilla-judge_lm",
    "code-complexity",
    "code-style",
    "code-explanation",
    "code-instruction-following",
    "code-readability",
)
NEMOTRON_WEIGHTS = (0.3, 0.74, 0.46, 0.47, -0.33)
_ANSWER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
_INNER = 32


def _names(names: tuple[str, ...], numbers: torch.Tensor) -> dict[str, float]:
    return dict(zip(names, numbers.tolist(), strict=True))


def _llama3(folder: Path) -> Any:
    """Llama 3's with `assistant` as one token: the gate's place is found by it."""
    return tokenizers.llama3(folder, words=["assistant"])


def _answer_start(folder: Path, ids: list[int]) -> int:
    """Return where the end of the prompt stands last: the place of its first token."""
    pattern = encode(folder, _ANSWER)
    assert len(pattern) == 5, pattern
    places = [i for i in range(len(ids)) if ids[i : i + len(pattern)] == pattern]
    return places[-1]


# --- several labels of a stock class ----------------------------------------------------------


def labelled(
    kind: str, made_tokenizer: Callable[[Path], Any], labels: int
) -> Callable[[Path], None]:
    """Return a builder of transformers' own `…ForSequenceClassification` with several labels."""

    def build(folder: Path) -> None:
        own = made_tokenizer(folder)
        task = "AutoModelForSequenceClassification"
        made = model(kind, own, task=task, num_labels=labels)
        save(folder, tensors(made), made, architectures=[type(made).__name__])

    return build


def _labels(folder: Path, text: str) -> torch.Tensor:
    weights, _ = read(folder)
    return weights["score.weight"] @ hidden(folder, encode(folder, text))[-1]


def _helpsteer(folder: Path, item: Item) -> Expected:
    numbers = _labels(folder, llama3_text(item))
    score = sum(w * x for w, x in zip(NEMOTRON_WEIGHTS, numbers.tolist(), strict=True))
    return Expected(score=score, attributes=_names(HELPSTEER, numbers))


def _decision_tree(folder: Path, item: Item) -> Expected:
    """The tree is a pickle and not served: helpfulness stands for the score."""
    numbers = _labels(folder, llama3_text(item))
    return Expected(score=float(numbers[0]), attributes=_names(HELPSTEER, numbers))


def _odin(folder: Path, item: Item) -> Expected:
    numbers = _labels(folder, gemma_text(item))
    return Expected(score=float(numbers[1]), attributes=_names(("length", "quality"), numbers))


# --- ArmoRM -----------------------------------------------------------------------------------


def _armorm_head(size: int) -> Tensors:
    count = len(ARMORM)
    widths = [size, _INNER, _INNER, _INNER, count]
    head = {
        "regression_layer.weight": random(count, size),
        "reward_transform_matrix": torch.eye(count) - 0.2 * random(count, count, scale=1.0).abs(),
        "gating.logit_scale": torch.tensor([1.3]),
    }
    for layer, (before, after) in enumerate(pairwise(widths)):
        spread = 3 * before**-0.5
        head[f"gating.layers.{layer}.weight"] = random(after, before, seed=layer, scale=spread)
        head[f"gating.layers.{layer}.bias"] = random(after, seed=20 + layer)
    return head


def _armorm(folder: Path, item: Item) -> Expected:
    """Σ rᵢ (g Tᵀ)ᵢ: r at the last token, g at the first token of the prompt's end."""
    weights, config = read(folder)
    ids = encode(folder, llama3_text(item))
    states = hidden(folder, ids)
    rewards = weights["regression_layer.weight"] @ states[-1]
    gate = states[_answer_start(folder, ids)]
    for layer in range(4):
        name = f"gating.layers.{layer}"
        gate = weights[f"{name}.weight"] @ gate + weights[f"{name}.bias"]
        gate = torch.relu(gate) if layer < 3 else gate
    gate = torch.softmax(gate / config["gating_temperature"], dim=0)
    gate = gate * weights["gating.logit_scale"][0]
    score = rewards @ (gate @ weights["reward_transform_matrix"].T)
    return Expected(score=float(score), attributes=_names(ARMORM, rewards))


# --- QRM --------------------------------------------------------------------------------------

_QUANTILES = 19


def _qrm_head(size: int) -> Tensors:
    count = len(ARMORM)
    head = {
        "regression_layer.weight": random(count * _QUANTILES, size, scale=12 * size**-0.5),
        "reward_transform_matrix": torch.eye(count) - 0.2 * random(count, count, scale=1.0).abs(),
        "gating.logit_scale": torch.tensor([0.8]),
        "gating.layers.9.weight": random(count, _INNER, seed=9, scale=3.0),
        "gating.layers.9.bias": random(count, seed=29),
    }
    width = size
    for layer in (0, 3, 6):
        head[f"gating.layers.{layer}.weight"] = random(_INNER, width, seed=layer)
        width = _INNER
        norm = f"gating.layers.{layer + 2}"
        head[f"{norm}.weight"] = 1 + random(_INNER, seed=30 + layer)
        head[f"{norm}.bias"] = random(_INNER, seed=40 + layer)
        head[f"{norm}.running_mean"] = random(_INNER, seed=50 + layer)
        head[f"{norm}.running_var"] = 0.2 + random(_INNER, seed=60 + layer, scale=1.0).abs()
        head[f"{norm}.num_batches_tracked"] = torch.tensor(1000)
    return head


def _qrm(folder: Path, item: Item) -> Expected:
    """The mean over quantiles, transformed, times a gate with batch norm behind each ReLU."""
    weights, config = read(folder)
    ids = encode(folder, llama3_text(item))
    states = hidden(folder, ids)
    quantiles = weights["regression_layer.weight"] @ states[-1]
    quantiles = quantiles.reshape(len(ARMORM), config["num_quantiles"])
    by_level = quantiles.T @ weights["reward_transform_matrix"]  # (levels, rewards)
    rewards = quantiles.mean(dim=1) @ weights["reward_transform_matrix"]
    gate = states[_answer_start(folder, ids)]
    for layer in (0, 3, 6):
        gate = torch.relu(weights[f"gating.layers.{layer}.weight"] @ gate)
        norm = {
            key: weights[f"gating.layers.{layer + 2}.{key}"]
            for key in ("weight", "bias", "running_mean", "running_var")
        }
        gate = (gate - norm["running_mean"]) / torch.sqrt(norm["running_var"] + 1e-5)
        gate = gate * norm["weight"] + norm["bias"]
    gate = weights["gating.layers.9.weight"] @ gate + weights["gating.layers.9.bias"]
    gate = torch.softmax(gate / config["gating_temperature"], dim=0)
    gate = gate * weights["gating.logit_scale"][0]
    std = (by_level @ gate).std(correction=0)
    return Expected(score=float(gate @ rewards), attributes=_names(ARMORM, rewards), std=float(std))


def _qrm_build(name: str, temperature: float) -> Callable[[Path], None]:
    return headed(
        "llama",
        _llama3,
        _qrm_head,
        architectures=[name],
        auto_map={"AutoModelForSequenceClassification": f"modeling_custom.{name}"},
        num_objectives=len(ARMORM),
        num_quantiles=_QUANTILES,
        gating_temperature=temperature,
        gating_hidden_dim=_INNER,
        gating_n_hidden=3,
    )


# --- URM --------------------------------------------------------------------------------------


def _urm_head(size: int) -> Tensors:
    head = {"score.weight": random(2 * len(HELPSTEER), size)}
    for layer, rows in ((0, size), (2, size), (4, len(HELPSTEER))):
        name = f"weights.fc.{layer}"
        head[f"{name}.weight"] = random(rows, size, seed=layer, scale=size**-0.5).half()
        head[f"{name}.bias"] = random(rows, seed=30 + layer).half()
    return head


def _urm(folder: Path, item: Item) -> Expected:
    """Means and log-spreads stand in turns; the weights of the means come from a network.

    The attributes are independent: their variances add up, each times its weight squared.
    """
    weights, _ = read(folder)
    state = hidden(folder, encode(folder, llama3_text(item)))[-1]
    means, logs = (weights["score.weight"] @ state).view(-1, 2).T
    gate = state
    for layer in (0, 2, 4):
        name = f"weights.fc.{layer}"
        gate = weights[f"{name}.weight"].float() @ gate + weights[f"{name}.bias"].float()
        gate = torch.nn.functional.selu(gate) if layer < 4 else gate
    return Expected(
        score=float(means @ gate),
        attributes=_names(HELPSTEER, means),
        std=float((gate * logs.exp()).norm()),
    )


# --- LDL --------------------------------------------------------------------------------------


def _ldl_build(folder: Path) -> None:
    """Write the trunk as Gemma2Model saves itself, and each head by torch.save."""
    made = model("gemma2", tokenizers.gemma(folder))
    size = made.config.hidden_size
    save(folder, tensors(made), made, architectures=["Gemma2Model"], num_objectives=220)
    for file, places, rows in (
        ("regression_layer.pt", (0, 2, 4), 220),
        ("gating_layer.pt", (0, 3, 6), 22),
    ):
        head = {}
        width = size
        for place, after in zip(places, (_INNER, _INNER, rows), strict=True):
            name = f"network.{place}"
            spread = 2 * width**-0.5
            head[f"{name}.weight"] = random(after, width, seed=rows + place, scale=spread)
            head[f"{name}.bias"] = random(after, seed=place)
            width = after
        torch.save(head, folder / file)


def _network(folder: Path, file: str, state: torch.Tensor) -> torch.Tensor:
    head = torch.load(folder / file, weights_only=True)
    places = sorted({int(name.split(".")[1]) for name in head})
    for place in places:
        state = head[f"network.{place}.weight"] @ state + head[f"network.{place}.bias"]
        if place != places[-1]:
            state = torch.nn.functional.leaky_relu(state)
    return state


def _ldl(folder: Path, item: Item) -> Expected:
    """22 distributions over ten values from 0 to 1, summed by the gate, then their mean value."""
    state = hidden(folder, encode(folder, gemma_text(item)), prefix="")[-1]
    shares = torch.softmax(_network(folder, "regression_layer.pt", state).view(22, 10), dim=-1)
    gate = _network(folder, "gating_layer.pt", state)
    values = torch.linspace(0, 1, 10)
    variances = shares @ values**2 - (shares @ values) ** 2
    return Expected(score=float((gate @ shares) @ values), std=float((gate**2 @ variances).sqrt()))


LAYOUTS = (
    Layout(
        "helpsteer",
        "helpsteer2-regression",
        labelled("llama", tokenizers.llama3, 5),
        _helpsteer,
        ITEMS,
    ),
    Layout(
        "decision-tree",
        "decision-tree-reward-llama-3.1-8b",
        labelled("llama", tokenizers.llama3, 5),
        _decision_tree,
        ITEMS,
    ),
    Layout("odin", "odin-gemma", labelled("gemma", tokenizers.gemma, 2), _odin, ITEMS),
    Layout(
        "armorm",
        "armorm-llama3-8b-v0.1",
        headed(
            "llama",
            _llama3,
            _armorm_head,
            architectures=["LlamaForRewardModelWithGating"],
            auto_map={
                "AutoModelForSequenceClassification": (
                    "modeling_custom.LlamaForRewardModelWithGating"
                )
            },
            num_objectives=len(ARMORM),
            gating_temperature=10,
            gating_hidden_dim=_INNER,
            gating_n_hidden=3,
        ),
        _armorm,
        ITEMS,
    ),
    Layout(
        "qrm-llama3",
        "qrm-llama3-8b",
        _qrm_build("LlamaForRewardModelWithGating3", 10.0),
        _qrm,
        ITEMS,
    ),
    Layout(
        "qrm-llama3.1",
        "qrm-llama3.1-8b",
        _qrm_build("LlamaForRewardModelWithGating31", 5.0),
        _qrm,
        ITEMS,
    ),
    Layout(
        "urm",
        "urm-llama-3-8b",
        headed(
            "llama",
            tokenizers.llama3,
            _urm_head,
            architectures=["LlamaForSequenceClassificationWithNormal_Weights"],
            id2label={str(label): f"LABEL_{label}" for label in range(10)},
        ),
        _urm,
        ITEMS,
    ),
    Layout("ldl", "ldl-reward-gemma-2-27b-v0.1", _ldl_build, _ldl, ITEMS),
)
