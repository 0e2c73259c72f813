"""PEFT adapters: merged scores are peft's own, and no tensor is random or left over."""

import importlib
import json

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from assay.cards import adapter as adapters
from assay.cards.card import Card
from assay.engine import checkpoint, verification
from assay.engine.model_runner import ModelRunner
from assay.errors import CheckpointError
from tests.fidelity import checkpoints, quantizing, reference

CPU = torch.device("cpu")
# transformers warns of its own old name, which peft still uses
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
LORA = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "up_proj"]}


def make(tmp_path, name="qwen2", *, bare=True, head=True, vocabulary=300, **options):
    """Write a base and an adapter on it whose every tensor matters; return both folders."""
    base = checkpoints.make(tmp_path / "base", name, vocabulary=vocabulary)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    if bare:
        causal = transformers.AutoModelForCausalLM.from_pretrained(base)
        torch.nn.init.normal_(causal.lm_head.weight)
        causal.save_pretrained(base)
    kind = "SEQ_CLS" if head else None
    config = peft.LoraConfig(
        task_type=kind, modules_to_save=["score"] if head else None, **LORA | options
    )
    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(2)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = 0.1 * noise if parameter.ndim > 1 else parameter.data + 0.1 * noise
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", base


@pytest.fixture
def folder(tmp_path):
    """An adapter with a head, on a bare causal model."""
    return make(tmp_path)[0]


def load(folder, dtype=torch.float32, base=None):
    """Load on CPU."""
    return checkpoint.load(folder, Card(), device=CPU, dtype=dtype, base=base)


def served(folder):
    """Return the verified trunk."""
    trunk = ModelRunner(*load(folder))
    verification.verify(trunk)
    return trunk


@torch.inference_mode()
def expected(folder, base, items):
    """Return the scores of peft's own forward pass, each item alone."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, attn_implementation="eager"
    )
    adapted = peft.PeftModel.from_pretrained(model, folder).eval()
    adapted.config.pad_token_id = None
    rows = [torch.from_numpy(one)[None].long() for one in items]
    return np.array([float(adapted(input_ids=row).logits[0, 0]) for row in rows])


@pytest.mark.parametrize("layout", [quantizing.nf4(is_nested=True), quantizing.gptq(4, 32)])
def test_an_adapter_on_a_quantized_base_goes_onto_the_expanded_one(tmp_path, layout):
    """As trained by QLoRA: peft's own scores over the dequantized base."""
    folder, base = make(tmp_path, bare=False)
    twin = quantizing.quantize(base, *layout)

    scores = reference.alone(served(folder), ids())

    assert np.abs(scores - expected(folder, twin, ids())).max() <= reference.FLOAT32_TOLERANCE


def ids():
    """Return sequences of several lengths."""
    random = np.random.default_rng(3)
    return [random.integers(3, 300, size=size).astype(np.int32) for size in (1, 2, 17, 90)]


def edit_config(folder, **changes):
    """Change fields of adapter_config.json."""
    path = folder / adapters.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder, change):
    """Rewrite the adapter's weights after a change."""
    tensors = load_file(folder / adapters.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / adapters.WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["qwen2", "llama"])
@pytest.mark.parametrize(
    "options",
    [
        {"bare": True},
        {"bare": False},
        {"bare": False, "head": False},
        {"bare": False, "head": False, "target_modules": ["q_proj", "score"]},
        {"use_rslora": True, "use_dora": True},
    ],
    ids=["causal base", "classifier base", "base's own head", "adapted head", "rslora and dora"],
)
def test_scores_are_pefts_own(tmp_path, name, options):
    """The merged model scores as peft's forward pass does, alone and in one batch."""
    folder, base = make(tmp_path, name, **options)
    wanted = expected(folder, base, ids())

    trunk = served(folder)

    assert trunk.forward == "packed"
    assert wanted.std() > 0.01
    assert np.abs(reference.alone(trunk, ids()) - wanted).max() < reference.FLOAT32_TOLERANCE
    batched = reference.together(trunk, ids(), len(ids()), seed=0)
    assert np.abs(batched - wanted).max() < reference.FLOAT32_TOLERANCE


def test_an_adapter_moves_the_scores(tmp_path):
    """The comparison above would pass with an adapter that does nothing; this one doesn't."""
    folder, base = make(tmp_path, bare=False, head=False)

    moved = reference.alone(served(folder), ids()) - reference.alone(served(base), ids())

    assert np.abs(moved).max() > 0.01


def test_the_head_is_float32_from_the_adapters_own_numbers(folder):
    """A float32 head in the adapter isn't rounded to the trunk's bfloat16 on its way."""
    stored = load_file(folder / adapters.WEIGHTS)["base_model.model.score.weight"]

    model, _ = load(folder, torch.bfloat16)

    assert model.base_model.dtype == torch.bfloat16
    assert torch.equal(model.score.weight, stored)


def test_an_adapter_of_several_labels_needs_a_card_that_names_them(tmp_path):
    """The saved head decides how many numbers there are."""
    folder, _ = make(tmp_path)
    key = "base_model.model.score.weight"
    edit_tensors(folder, lambda tensors: tensors.update({key: tensors[key].repeat(2, 1)}))
    card = Card.model_validate({"score": {"outputs": ["help", "harm"]}})

    with pytest.raises(CheckpointError, match="gives 2 numbers"):
        load(folder)
    model, _ = checkpoint.load(folder, card, device=CPU, dtype=torch.float32)

    assert model.score.weight.shape[0] == 2


def test_a_base_that_is_not_there_is_refused(folder):
    """A path of the machine that trained the adapter is named, with what to do."""
    edit_config(folder, base_model_name_or_path="/somewhere/else")

    with pytest.raises(CheckpointError, match="'/somewhere/else', which is not a folder here"):
        load(folder)


def test_a_base_beside_the_adapter_is_found(folder):
    """A relative path counts from the adapter's folder."""
    edit_config(folder, base_model_name_or_path="../base")

    assert adapters.base_of(folder) == (folder.parent / "base").resolve()


def test_a_base_on_the_hub_keeps_its_revision(folder):
    """The revision that the adapter was trained on is part of what is fetched."""
    edit_config(folder, base_model_name_or_path="org/name", revision="abc")
    asked = []

    found = adapters.base_folder(folder, lambda name: asked.append(name) or folder.parent / "base")

    assert asked == ["org/name@abc"]
    assert found == folder.parent / "base"
    load(folder, base=found)


def test_an_adapter_without_a_head_on_a_bare_base_is_refused(tmp_path):
    """transformers would make a random head."""
    folder, _ = make(tmp_path, head=False)

    with pytest.raises(CheckpointError, match=r"neither .* has 'score\.weight'"):
        load(folder)


def test_a_head_that_is_promised_and_missing_is_refused(tmp_path):
    """An adapter that says it saves the head, on a base with one of its own, must have it."""
    folder, _ = make(tmp_path, bare=False)
    edit_tensors(folder, lambda tensors: tensors.pop("base_model.model.score.weight"))

    with pytest.raises(CheckpointError, match=r"lacks 'base_model\.model\.score\.weight'"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"base_model.model.extra.weight": torch.ones(1)}), r"extra\.weight"),
        (
            lambda t: t.update(
                {"base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight": torch.ones(4)}
            ),
            r"k_proj\.lora_A",
        ),
        (lambda t: t.pop(next(name for name in t if "lora_B" in name)), "lacks .*lora_B"),
        (lambda t: t.update({name: one[:1] for name, one in t.items()}), "size mismatch"),
    ],
    ids=["unknown", "untargeted", "missing", "misshapen"],
)
def test_a_tampered_adapter_is_refused_with_the_tensors_name(folder, change, message):
    """Every tensor of the adapter has its place, and every place its tensor."""
    edit_tensors(folder, change)

    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_a_base_with_tensors_left_over_is_refused(tmp_path):
    """Only the output embedding of a bare base may be left over."""
    folder, base = make(tmp_path)
    tensors = load_file(base / "model.safetensors")
    save_file(tensors | {"v_head.weight": torch.ones(1)}, base / "model.safetensors")

    with pytest.raises(CheckpointError, match=r"base holds 'v_head\.weight'"):
        load(folder)


def test_an_option_that_peft_does_not_know_is_refused(folder):
    """peft would warn and leave out what a newer one computes."""
    edit_config(folder, use_something_newer=True)

    with pytest.raises(CheckpointError, match="sets 'use_something_newer'"), pytest.warns():
        load(folder)


def test_a_prompt_adapter_is_refused(folder):
    """What can't be merged would have to run beside the trunk."""
    (folder / adapters.CONFIG).write_text(
        json.dumps(
            {
                "peft_type": "PROMPT_TUNING",
                "num_virtual_tokens": 4,
                "base_model_name_or_path": "../base",
            }
        )
    )

    with pytest.raises(CheckpointError, match="type PROMPT_TUNING, which can't be merged"):
        load(folder)


def test_an_adapter_beside_whole_weights_is_refused(tmp_path):
    """Which of the two was meant can't be known, and transformers would apply both."""
    folder, base = make(tmp_path)
    (base / adapters.CONFIG).write_bytes((folder / adapters.CONFIG).read_bytes())

    with pytest.raises(CheckpointError, match="holds both an adapter"):
        load(base)
    with pytest.raises(CheckpointError, match="is an adapter itself"):
        load(folder)


def test_a_pickled_adapter_is_refused(folder):
    """Its tensors could run code when read."""
    (folder / adapters.WEIGHTS).rename(folder / "adapter_model.bin")

    with pytest.raises(CheckpointError, match=r"only adapter_model\.bin, a pickle"):
        load(folder)


def test_a_card_with_heads_over_an_adapter_is_refused(folder):
    """Its tensors are named for a trunk's own files."""
    head = {"layers": [{"op": "linear", "weight": "score.weight"}]}
    card = Card.model_validate({"heads": {"reward": head}})

    with pytest.raises(CheckpointError, match="must be merged into its base first"):
        checkpoint.load(folder, card, device=CPU, dtype=torch.float32)


def test_the_extra_is_named_where_peft_is_missing(folder, monkeypatch):
    """A server without it says what to install."""

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)

    with pytest.raises(CheckpointError, match=r"install 'assay-rm\[serve,adapters\]'"):
        load(folder)


def test_config_and_tokenizer_are_the_bases_where_the_adapter_has_none(folder):
    """Trainers save a tokenizer beside the adapter, and rarely a config.json."""
    base = folder.parent / "base"
    assert adapters.config_folder(folder, base) == base
    assert adapters.tokenizer_folder(folder, base) == base

    (folder / "tokenizer.json").write_text("{}")

    assert adapters.config_folder(folder, base) == base
    assert adapters.tokenizer_folder(folder, base) == folder
