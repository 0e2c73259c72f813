import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from assay.cards import card as cards
from assay.cards import catalogue, code, layouts, parts, recognise
from assay.cards.card import Card
from assay.cards.mechanism import Read
from assay.errors import CheckpointError
from tests.families import attributes, contrast, pairwise, process, scalar

HIDDEN = 4
_REGRESSION = "helpsteer2-regression"
TRUNK = {
    "model.embed_tokens.weight": (8, HIDDEN),
    "model.layers.0.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "model.layers.1.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
    "model.norm.weight": (HIDDEN,),
}
ONE = {"id2label": {"0": "LABEL_0"}}
LAYOUTS = [
    layout
    for module in (scalar, attributes, pairwise, process, contrast)
    for layout in module.LAYOUTS
]
FAMILYS = {"trunk", "template", "steps", "read", "heads"}
MECHANISM = FAMILYS | {"score", "spread", "preference", "limits"}

# Families whose files are transformers' own class and say nothing of the family's template.
STOCK = {
    "skywork-v2-qwen3",
    "skywork-v0.2-llama",
    "skywork-v0.2-gemma-2",
    "tulu-3",
    "fsfairx",
    "open-assistant-deberta",
    "bge-reranker",
}
# Families whose files others write too, or whose heads are pickles, and what the refusal says.
REFUSED = {
    **dict.fromkeys(("helpsteer", "decision-tree"), "has 5 labels"),
    "odin": "has 2 labels",
    **dict.fromkeys(("athene", "starling-7b", "starling-34b"), "models/athene-rm-8b, models/star"),
    **dict.fromkeys(("ultrarm", "eurus"), "models/ultrarm-13b, models/eurus-rm-7b"),
    "llama-factory": "value_head.bin; separate head files in .pt or .bin load only when a card",
    "ldl": "regression_layer.pt; separate head files in .pt or .bin load only when a card",
    **dict.fromkeys(
        (
            "math-shepherd",
            "rlhflow-prm",
            "rlhflow-orm",
            "nemotron-hf",
            "pair-preference",
            "dpo",
            "policy",
            "qwen3-reranker",
            "bge-reranker-gemma",
        ),
        "is a language model",
    ),
}


def checkpoint(folder, *, heads=None, trunk=TRUNK, **config):
    """Write a checkpoint of zeros: a trunk, a head's tensors by shape, and config.json."""
    shapes = trunk | (heads or {})
    arrays = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    save_file(arrays, folder / "model.safetensors")
    content = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **config}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def catalogued(name):
    """Return a card of the catalogue."""
    return cards.read(catalogue.embedded() / name)


def mechanism(card):
    """Return what a card says of how a score is computed."""
    return {name: getattr(card, name) for name in MECHANISM}


def refusal(folder):
    """Return the message with which a folder is refused."""
    with pytest.raises(CheckpointError) as error:
        recognise.recognise(folder)
    return error.value.message


# --- every family, in its own files -----------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_family_is_recognised_or_refused(layout, tmp_path):
    """Each is taken for what it is, or refused where its files are another family's too."""
    layout.build(tmp_path)
    if layout.name in REFUSED:
        assert REFUSED[layout.name] in refusal(tmp_path)
        return

    found = recognise.recognise(tmp_path)

    if layout.name in STOCK:
        assert (found.family, found.card) == (recognise.STOCK, Card())
        return
    expected = catalogued(layout.card)
    assert found.family == expected.family
    if layout.name == "internlm2":
        declared = json.loads((tmp_path / "config.json").read_text())["reward_token_id"]
        own = {"append": [declared], "expected_read_token": None}
        template = expected.template.model_copy(update=own)
        expected = expected.model_copy(update={"template": template})
    assert mechanism(found.card) == mechanism(expected)


def test_every_card_named_is_in_the_catalogue():
    """What is recognised, or advised, is there to be read."""
    advised = (*recognise._READ_THE_VOCABULARY, *recognise._PICKLED.values(), recognise._LABELLED)
    named = {name for layout in layouts.LAYOUTS for name in layout.cards} | {*advised}
    named.add(recognise._VALUE_HEAD_CARD)
    assert named <= catalogue.folders(catalogue.embedded()).keys()


def test_a_recognised_card_has_nothing_of_the_one_checkpoint(tmp_path):
    """Where its weights are, its golden scores and its licence stay in the catalogue."""
    heads = {
        "score.0.weight": (HIDDEN, HIDDEN),
        "score.0.bias": (HIDDEN,),
        "score.2.weight": (1, HIDDEN),
        "score.2.bias": (1,),
    }
    assert catalogued("qwen2.5-math-rm-72b").golden

    card = recognise.recognise(checkpoint(tmp_path, heads=heads, model_type="qwen2")).card

    assert (card.source, card.golden, card.summary, card.license) == (None, [], None, None)


# --- what is no reward model, or no known one -------------------------------------------------


def test_a_chat_model_is_refused(tmp_path):
    """A language model alone may be anything; what may be meant is named."""
    said = refusal(checkpoint(tmp_path, heads={"lm_head.weight": (8, HIDDEN)}))
    assert "is a language model (LlamaForCausalLM) without a reward head" in said
    assert "copy the card.toml of its family beside config.json" in said


@pytest.mark.parametrize("modules", [True, False])
def test_an_embedding_model_is_refused(tmp_path, modules):
    """A trunk without a name before its layers, as AutoModel writes it, has no head."""
    trunk = {name.removeprefix("model."): shape for name, shape in TRUNK.items()}
    named = "LlamaForCausalLM" if modules else "LlamaModel"
    folder = checkpoint(tmp_path, trunk=trunk, architectures=[named])
    if modules:
        (folder / "modules.json").write_text("[]")
    assert "is an embedding or base model" in refusal(folder)


def test_several_labels_without_a_card_are_refused(tmp_path):
    """No file says which of three labels is the score."""
    folder = checkpoint(
        tmp_path,
        heads={"score.weight": (3, HIDDEN)},
        architectures=["LlamaForSequenceClassification"],
    )
    said = refusal(folder)
    assert "has 3 labels ('score.weight')" in said
    assert "[score] outputs = [3 names]" in said


@pytest.mark.parametrize(
    ("kind", "head", "labels", "named"),
    [
        ("bert", "classifier.weight", 2, []),
        ("bert", "classifier.weight", 5, []),
        ("llama", "score.weight", 2, []),
        ("gemma", "score.weight", 2, ["odin-gemma"]),
        ("llama", "score.weight", 5, ["decision-tree-reward-llama-3.1-8b", _REGRESSION]),
    ],
)
def test_a_card_is_offered_only_for_its_own_kind_of_trunk(tmp_path, kind, head, labels, named):
    """No Gemma's card for a BERT: where none fits, what to write is said alone."""
    folder = checkpoint(
        tmp_path,
        heads={head: (labels, HIDDEN)},
        model_type=kind,
        architectures=[f"{kind.title()}ForSequenceClassification"],
        id2label={str(number): f"LABEL_{number}" for number in range(labels)},
    )
    said = refusal(folder)

    offered = [name for name, _ in catalogue.without_weights(tmp_path) if f"{name}=" in said]
    assert offered == named
    assert f"[score] outputs = [{labels} names]" in said
    assert f"num_labels: {labels}" in said


def test_a_head_of_an_unknown_name_is_refused_by_its_name(tmp_path):
    """The tensors that are left over are named, and how a card would name them."""
    folder = checkpoint(
        tmp_path,
        heads={"my_head.weight": (1, HIDDEN), "my_head.bias": (1,)},
        architectures=["LlamaForSequenceClassification"],
    )
    said = refusal(folder)
    assert "holds 'my_head.bias', 'my_head.weight' beside its trunk" in said
    assert 'layers = [{ op = "linear", weight = "my_head.weight" }]' in said


def test_a_head_inside_the_trunk_is_refused_by_its_name(tmp_path):
    """A head under the trunk's own name is none of the trunk's."""
    folder = checkpoint(tmp_path, heads={"model.my_head.weight": (1, HIDDEN)})
    assert "holds 'model.my_head.weight' beside its trunk" in refusal(folder)


def test_an_adapter_without_its_base_is_refused(tmp_path):
    """The base is named."""
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    said = refusal(tmp_path)
    assert "is an adapter of 'org/base', which isn't here; merge it into its base" in said


def test_an_adapter_over_a_folder_is_a_doubt(tmp_path):
    """Its base is there, but the numbers are those of both together."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))

    found = recognise.recognise(adapter)

    assert found.family == "adapter"
    assert "merged" in found.doubts[0]


def test_a_base_without_its_head_is_refused(tmp_path):
    """config.json promises a head that the files don't have."""
    folder = checkpoint(tmp_path, architectures=["LlamaForSequenceClassification"])
    assert "without its head's tensors" in refusal(folder)


def test_an_encoder_decoder_is_refused(tmp_path):
    """What Assay can't run isn't advised on."""
    folder = checkpoint(tmp_path, is_encoder_decoder=True)
    assert "is an encoder-decoder" in refusal(folder)


def test_the_checkpoints_own_code_is_said_not_to_run(tmp_path):
    """Refused or recognised, auto_map is mentioned."""
    own = {"auto_map": {"AutoModel": "modeling.Model"}}
    refused, recognised = tmp_path / "refused", tmp_path / "recognised"
    refused.mkdir()
    recognised.mkdir()
    checkpoint(refused, heads={"my_head.weight": (1, HIDDEN)}, **own)
    checkpoint(recognised, heads={"value_head.weight": (1, HIDDEN)}, **own)

    trusting = f"--trust-remote-code NAME@{code.digest(refused)}"
    assert refusal(refused).endswith(
        f"own code (auto_map) is not run, but where it is read and trusted: {trusting}"
    )
    assert "(auto_map)" in recognise.recognise(recognised).notes[-1]


# --- what config.json says --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "mean", "std"),
    [
        ({"normalize_reward": True, "mean": 0.5, "std": 2.0}, 0.5, 2.0),
        ({"normalize_reward": False, "mean": 0.5, "std": 2.0}, 0.0, 1.0),
        ({"mean": 0.5, "std": 2.0}, 0.0, 1.0),
        ({"normalize_reward": True}, 0.0, 1.0),
        ({"normalize_reward": True, "mean": None, "std": None}, 0.0, 1.0),
    ],
)
def test_openrlhf_normalizes_only_where_it_says_so(tmp_path, config, mean, std):
    """`mean` and `std` are always in its config.json; they count with `normalize_reward`."""
    heads = {"value_head.weight": (1, HIDDEN)}
    card = recognise.recognise(checkpoint(tmp_path, heads=heads, **config)).card
    assert (card.score.mean, card.score.std) == (mean, std)
    if config.get("mean") is None:
        assert card.statistics is None
        return
    normal = (0.0, 1.0) if config.get("normalize_reward") else (0.5, 2.0)
    assert (card.statistics.mean, card.statistics.std) == normal


@pytest.mark.parametrize("prefix", ["score", "value_head", "another"])
def test_openrlhfs_head_has_the_name_config_json_gives(tmp_path, prefix):
    """A declared head is OpenRLHF's whatever it is called, and its text ends with EOS."""
    weight = f"{prefix}.weight"
    folder = checkpoint(
        tmp_path,
        heads={weight: (1, HIDDEN)},
        value_head_prefix=prefix,
        architectures=["LlamaForSequenceClassification"],
        **ONE,
    )

    found = recognise.recognise(folder)

    assert (found.family, found.card.template.eos) == ("OpenRLHF", "force")
    assert found.card.heads["reward"].layers[0].weight == weight


def test_two_heads_are_not_openrlhfs(tmp_path):
    """config.json names one head; another beside it is left over, and named."""
    heads = {"score.weight": (1, HIDDEN), "another.weight": (1, HIDDEN)}
    folder = checkpoint(tmp_path, heads=heads, value_head_prefix="score")
    assert "looks like OpenRLHF, but holds 'another.weight' too" in refusal(folder)


@pytest.mark.parametrize(
    ("config", "ops", "mean", "transform"),
    [
        ({"score_type": "reward", "do_normalize": True}, "linear standardize", True, "identity"),
        ({"score_type": "cost", "do_normalize": True}, "linear standardize", False, "negate"),
        ({"score_type": "reward", "do_normalize": False}, "linear", False, "identity"),
        ({"score_type": "cost"}, "linear", False, "negate"),
        ({}, "linear", False, "identity"),
    ],
)
def test_beaver_is_normalized_as_config_json_says(tmp_path, config, ops, mean, transform):
    """A reward loses its mean, a cost is negated, and neither is scaled unless it says so."""
    heads = {
        "score_head.weight": (1, HIDDEN),
        "score_head.bias": (1,),
        **{f"normalizer.{name}": (1,) for name in ("mean", "var", "count")},
    }
    found = recognise.recognise(checkpoint(tmp_path, heads=heads, **config))
    layers = found.card.heads["reward"].layers

    assert " ".join(layer.op for layer in layers) == ops
    assert layers[0].bias == "score_head.bias"
    assert bool(getattr(layers[-1], "mean", None)) == mean
    assert found.card.score.transform == transform
    assert bool(found.doubts) == ("score_type" not in config)


def test_a_critic_is_no_reward_model(tmp_path):
    """safe-rlhf's critic has a reward model's files."""
    heads = {"score_head.weight": (1, HIDDEN)}
    folder = checkpoint(tmp_path, heads=heads, score_type="critic")
    assert "which is no head of a family that Assay knows" in refusal(folder)


@pytest.mark.parametrize(("pooling", "read"), [("last", None), ("mean", Read(at="mean"))])
def test_open_assistant_pools_as_config_json_says(tmp_path, pooling, read):
    """The last token, or the mean of all."""
    trunk = {name.replace("model.", "gpt_neox."): shape for name, shape in TRUNK.items()}
    heads = {"out_proj.weight": (1, HIDDEN), "out_proj.bias": (1,), "embed_out.weight": (8, HIDDEN)}
    folder = checkpoint(
        tmp_path, trunk=trunk, heads=heads, model_type="gpt_neox_reward_model", pooling=pooling
    )

    found = recognise.recognise(folder)

    assert found.card.read == read
    assert "embed_out.weight" in found.card.trunk.unused


@pytest.mark.parametrize("missing", ["bias", "v_head.summary.weight"])
def test_a_known_head_that_lacks_a_tensor_is_refused(tmp_path, missing):
    """What a family's card names must be there, to the last tensor."""
    heads = {
        "score.0.weight": (HIDDEN, HIDDEN),
        "score.2.weight": (1, HIDDEN),
        "score.0.bias": (HIDDEN,),
        "score.2.bias": (1,),
    }
    if missing == "bias":
        del heads["score.2.bias"]
    else:
        heads["v_head.summary.weight"] = (1, HIDDEN)
    assert "which is no head of a family that Assay knows" in refusal(
        checkpoint(tmp_path, heads=heads)
    )


def test_a_gate_deeper_than_the_cards_is_refused(tmp_path):
    """A layout may fit where its card's layers don't: the tensors decide."""
    heads = {
        "regression_layer.weight": (19, HIDDEN),
        "reward_transform_matrix": (19, 19),
        "gating.logit_scale": (1,),
        **{f"gating.layers.{layer}.weight": (HIDDEN, HIDDEN) for layer in range(5)},
        **{f"gating.layers.{layer}.bias": (HIDDEN,) for layer in range(5)},
    }
    said = refusal(checkpoint(tmp_path, heads=heads))
    assert (
        "looks like ArmoRM, but holds 'gating.layers.4.bias', 'gating.layers.4.weight' too" in said
    )


def test_a_value_head_of_other_tensors_is_refused(tmp_path):
    """A separate head is one linear layer, as TRL writes it."""
    folder = checkpoint(tmp_path)
    save_file({"head.weight": np.zeros((1, HIDDEN))}, folder / "value_head.safetensors")
    assert "value_head.safetensors holds 'head.weight', not one linear" in refusal(folder)


# --- transformers' own class ------------------------------------------------------------------


def test_one_label_more_in_config_than_in_the_files_is_a_doubt(tmp_path):
    """The tensors decide: one label is one score, whatever the class is called."""
    folder = checkpoint(
        tmp_path,
        heads={"score.weight": (1, HIDDEN), "lm_head.weight": (8, HIDDEN)},
        architectures=["LlamaForRewardModel"],
    )

    found = recognise.recognise(folder)

    assert found.card.heads["reward"].layers[0].weight == "score.weight"
    assert found.card.trunk.unused == ["lm_head.weight"]
    assert "'LlamaForRewardModel'" in found.doubts[0]


def test_a_trunk_may_number_its_layers_in_its_own_way(tmp_path):
    """Where no name is that of a layer, most tensors are the trunk's."""
    groups = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    trunk = {
        "albert.embeddings.word_embeddings.weight": (8, HIDDEN),
        f"{groups}.ffn.weight": (HIDDEN, HIDDEN),
        f"{groups}.ffn.bias": (HIDDEN,),
    }
    folder = checkpoint(
        tmp_path,
        trunk=trunk,
        heads={"classifier.weight": (1, HIDDEN), "classifier.bias": (1,)},
        architectures=["AlbertForSequenceClassification"],
        **ONE,
    )
    assert recognise.recognise(folder) == recognise.Recognised(recognise.STOCK, Card())


def test_one_label_a_token_is_no_score(tmp_path):
    """A class that labels tokens says nowhere which of them are steps."""
    folder = checkpoint(
        tmp_path,
        heads={"score.weight": (1, HIDDEN), "score.bias": (1,)},
        architectures=["LlamaForTokenClassification"],
        **ONE,
    )
    assert "which is no head of a family that Assay knows" in refusal(folder)


def test_recognising_loads_no_torch():
    """The front process recognises by headers alone."""
    program = (
        "import sys; from assay.cards import recognise; "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (finished.stdout, finished.stderr) == ("set()\n", "")


@pytest.mark.parametrize(("config", "groups"), [({"num_quantiles": 2}, 3), ({}, 19)])
def test_qrms_quantiles_are_as_many_as_config_json_says(tmp_path, config, groups):
    """So many neighbours are one attribute's: their mean is taken over each group."""
    layers = {"gating.layers.0.weight": (4, HIDDEN), "gating.layers.2.running_mean": (4,)}
    heads = {"regression_layer.weight": (6, HIDDEN), "reward_transform_matrix": (3, 3), **layers}
    parts_of = parts.of(checkpoint(tmp_path, heads=heads, **config))

    card = layouts.tuned(cards.read(catalogue.embedded() / "qrm-llama3-8b"), parts_of)

    assert [one.groups for one in card.heads["reward"].layers if one.op == "mean"] == [groups]


@pytest.mark.parametrize(
    ("labels", "words"),
    [({}, "says no labels, which is two"), ({"num_labels": 3}, "says 3 labels")],
)
@pytest.mark.parametrize("head", ["score.weight", "classifier.weight"])
def test_a_head_of_one_row_under_other_labels_is_told_what_to_write(tmp_path, labels, words, head):
    """The message names the field of config.json, not a card's layers."""
    said = {"architectures": ["LlamaForSequenceClassification"], **labels}
    folder = checkpoint(tmp_path, heads={head: (1, HIDDEN)}, **said)

    if head == "score.weight":
        (message,) = recognise.recognise(folder).doubts
    else:
        message = refusal(folder)

    assert words in message
    assert '"id2label": {"0": "score"} (num_labels = 1)' in message
