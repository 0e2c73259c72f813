"""What a family's files hold beside its weights, or under two names: read, or known not to be."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from assay.cards import card as cards
from assay.cards import repository
from assay.cards.catalogue import embedded
from assay.errors import CheckpointError
from assay.scoring.interpretation import ScoreOptions
from tests.families import attributes, pairwise, process, scalar
from tests.families.layout import SINGLE
from tests.families.serving import Served
from tests.families.test_pitfalls import CLOSE

LAYOUTS = {
    one.name: one for module in (scalar, attributes, process, pairwise) for one in module.LAYOUTS
}
ITEM = SINGLE[1]


@pytest.fixture
def make(tmp_path):
    """Return the function from a layout's name to its folder, with the catalogue's card."""

    def build(name):
        folder = tmp_path / LAYOUTS[name].card
        folder.mkdir()
        LAYOUTS[name].build(folder)
        shutil.copy(embedded() / LAYOUTS[name].card / cards.FILE_NAME, folder)
        return folder

    return build


def configure(folder, **changes):
    """Change a checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


def named(folder):
    """Return the card under which a folder is served when the catalogue's name is given for it."""
    (folder / cards.FILE_NAME).unlink()
    return repository.find(f"{folder.name}={folder}", embedded()).card


@pytest.mark.parametrize("is_named", [True, False])
def test_openrlhfs_mean_and_std_are_what_normalize_asks_for(make, is_named):
    """They lie in config.json, and OpenRLHF itself doesn't apply them unless it is told to."""
    folder = make("openrlhf-qwen")
    plain = LAYOUTS["openrlhf-qwen"].reference(folder, ITEM).score
    configure(folder, normalize_reward=False, mean=0.35, std=1.7)
    served = Served(f"{folder.name}={folder}" if is_named else folder)

    (raw,) = served.verdicts([ITEM])
    (normal,) = served.verdicts([ITEM], wish=ScoreOptions(normalize=True))

    assert raw.rewards == pytest.approx((plain,), abs=CLOSE)
    assert normal.rewards == pytest.approx(((plain - 0.35) / 1.7,), abs=CLOSE)


def test_openrlhf_normalizes_by_itself_where_config_json_says_so(make):
    """A card beside the files that states no mean of its own has config.json's."""
    folder = make("openrlhf")
    plain = LAYOUTS["openrlhf"].reference(folder, ITEM).score
    configure(folder, normalize_reward=True, mean=0.35, std=1.7)
    served = Served(folder)

    for wish in (ScoreOptions(), ScoreOptions(normalize=True)):
        (found,) = served.verdicts([ITEM], wish=wish)
        assert found.rewards == pytest.approx(((plain - 0.35) / 1.7,), abs=CLOSE)


def test_a_named_card_has_the_numbers_that_its_family_keeps_in_config_json(make):
    """A head's name, a gate's temperature, a normalizer and a token's id are read by name, too."""
    openrlhf, gated, beaver = make("openrlhf-qwen"), make("armorm"), make("beaver-reward")
    configure(openrlhf, value_head_prefix="mine")
    path = openrlhf / "model.safetensors"
    tensors = load_file(path)
    tensors["mine.weight"] = tensors.pop("score.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    configure(gated, gating_temperature=3.0)
    configure(beaver, do_normalize=True)

    assert named(openrlhf).heads["reward"].layers[0].weight == "mine.weight"
    layers = named(gated).heads["gate"].layers
    assert [one.temperature for one in layers if one.op == "softmax"] == [3.0]
    assert [one.op for one in named(beaver).heads["reward"].layers] == ["linear", "standardize"]


def test_a_named_card_reads_a_bias_that_the_files_have(make):
    """safe-rlhf's head may have one; the named card's score is that of the recognised folder."""
    folder = make("beaver-reward")
    path = folder / "model.safetensors"
    save_file(load_file(path) | {"score_head.bias": torch.tensor([0.75])}, path)
    plain = LAYOUTS["beaver-reward"].reference(folder, ITEM).score

    (found,) = Served(f"{folder.name}={folder}").verdicts([ITEM])

    assert found.rewards == pytest.approx((plain + 0.75,), abs=CLOSE)


@pytest.mark.parametrize("name", ["llama-factory", "trl-value-head"])
def test_a_head_may_lie_under_either_name(make, name):
    """LLaMA-Factory writes value_head.safetensors, or .bin: one card takes both."""
    folder = make(name)
    expected = LAYOUTS[name].reference(folder, ITEM).score
    safe, pickled = folder / "value_head.safetensors", folder / "value_head.bin"
    if safe.is_file():
        torch.save(load_file(safe), pickled)
        safe.unlink()
    else:
        save_file(torch.load(pickled, weights_only=True), safe)
        pickled.unlink()
    before = repository.resolve(str(folder), folder).checkpoints[0].revision

    (found,) = Served(folder).verdicts([ITEM])

    assert found.rewards == pytest.approx((expected,), abs=CLOSE)
    other = pickled if pickled.is_file() else safe
    other.write_bytes(other.read_bytes() + b" ")
    assert repository.resolve(str(folder), folder).checkpoints[0].revision != before


def test_a_head_under_two_names_with_two_values_is_refused(make):
    """Equal ones are one head."""
    folder = make("llama-factory")
    head = torch.load(folder / "value_head.bin", weights_only=True)
    save_file(head, folder / "value_head.safetensors")
    Served(folder)

    head["v_head.summary.bias"] = head["v_head.summary.bias"] + 1
    save_file(head, folder / "value_head.safetensors")

    with pytest.raises(CheckpointError, match=r"value_head\.bin hold two heads that aren't equal"):
        Served(folder)


@pytest.mark.parametrize("name", ["qwen2.5-math-rm", "inf-orm", "athene", "urm"])
def test_an_output_embedding_that_no_head_reads_may_lie_there(make, name):
    """Trainers leave the language model's own head in the files; no score depends on it."""
    folder = make(name)
    expected = LAYOUTS[name].reference(folder, ITEM).score
    path = folder / "model.safetensors"
    save_file(load_file(path) | {"lm_head.weight": torch.ones(3, 48)}, path)

    (found,) = Served(folder).verdicts([ITEM])

    assert found.rewards == pytest.approx((expected,), abs=CLOSE)


@pytest.mark.parametrize("label", ["Step {}: ", "Step {}:", "  Step {}:   "])
def test_steps_that_bring_their_number_have_it_once(make, label):
    """Math-Shepherd's own data has "Step 1: " in front; the card writes it where it lacks."""
    served = Served(make("math-shepherd"))
    item = process.ITEMS[0]
    labelled = [label.format(number) + step for number, step in enumerate(item["steps"], 1)]

    plain, marked = served.verdicts([item, {**item, "steps": labelled}])

    assert marked.steps == plain.steps


def test_gpms_gate_is_read_where_the_prompt_alone_ends(make):
    """Whatever the response holds: an assistant's header within it isn't the prompt's end."""
    folder = make("general-preference")
    header = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    prompt, responses = "Hi", [f"Ho{header}he", "Well."]
    expected = LAYOUTS["general-preference"].reference(
        folder, {"prompt": prompt, "responses": responses}
    )

    found = Served(folder).matrix(prompt, responses)

    for row, its in zip(found, expected.probabilities, strict=True):
        assert row == pytest.approx(its, abs=1e-4)
