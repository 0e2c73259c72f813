"""Every architecture against transformers eager, alone and in shuffled batches."""

import importlib
import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from assay.cards.card import Card
from assay.cards.positions import stated_tokens
from assay.engine import checkpoint, verification
from assay.engine import model_runner as trunks
from assay.worker_protocol import PrefixBatch
from tests.fidelity import checkpoints, reference, texts

ITEMS = texts.generated(24, longest_words=60)
# Rows a token's expert sees depend on the batch, and so does the order of float32 sums there.
NOT_BIT_EQUAL = {"mixtral": 2e-6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make each architecture's checkpoint once."""
    root = tmp_path_factory.mktemp("architectures")

    def make(name, **overrides):
        path = root / f"{name}-{len(list(root.iterdir()))}"
        return checkpoints.make(path, name, vocabulary=texts.vocabulary(), **overrides)

    return make


@pytest.mark.parametrize("name", checkpoints.ARCHITECTURES)
def test_float32_scores_equal_eager_and_keep_their_bits_in_any_batch(folder, name):
    """|score − transformers eager, batch of one| ≤ 1e-5; alone and in any batch, the same bits."""
    report = reference.compare(folder(name), ITEMS, measure_reference=False)

    assert report.gap <= reference.FLOAT32_TOLERANCE
    assert report.changed_by <= NOT_BIT_EQUAL.get(name, 0.0)
    assert report.std > 0.05


@pytest.mark.parametrize("at", ["first", "last", "mean"])
@pytest.mark.parametrize("name", ["qwen3", "bert", "deberta-v3"])
@torch.inference_mode()
def test_a_card_says_where_the_head_of_transformers_own_class_reads(folder, name, at):
    """Packed or padded, in any batch; the class's own place is what it is verified by."""
    path, items = folder(name), ITEMS[:8]
    card = Card.model_validate({"read": {"at": at}})
    trunk = trunks.load(path, card, device=torch.device("cpu"), dtype=torch.float32)
    verification.verify(trunk, compiled=True)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        path, attn_implementation="eager"
    ).eval()
    expected = []
    for ids in items:
        state = model.base_model(torch.from_numpy(ids)[None].long()).last_hidden_state
        place = {"first": state[:, :1], "last": state[:, -1:], "mean": state.mean(1, True)}[at]
        for part in checkpoint.head_modules(model):
            takes_sequence = "pooler" in type(part).__name__.lower()
            place = (
                part(place) if takes_sequence else part(place if place.ndim == 2 else place[:, 0])
            )
        expected.append(float(place.flatten()[0]))

    scores = reference.alone(trunk, items)

    assert np.abs(scores - expected).max() <= reference.FLOAT32_TOLERANCE
    assert scores.tolist() == reference.together(trunk, items, 3, seed=0).tolist()
    assert trunk.shares_prefixes == (name == "qwen3" and at == "last")


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gpt-neox", "modernbert"])
def test_bfloat16_scores_keep_their_bits_in_any_batch(folder, name):
    """In bfloat16, too, a score has the same bits alone and in any batch."""
    report = reference.compare(folder(name), ITEMS, torch.bfloat16, measure_reference=False)

    assert report.changed == 0


@pytest.mark.parametrize("name", ["qwen3", "llama", "gemma2", "gpt-neox"])
def test_bfloat16_scores_are_as_near_as_the_reference_to_itself(folder, name):
    """The gap to eager alone is within what eager shows between its own batch sizes.

    Where eager shows next to nothing, it is within float32's tolerance: a thousandth of a unit in
    bfloat16's last place.
    """
    report = reference.compare(folder(name), ITEMS, torch.bfloat16)

    assert report.gap <= max(report.reference_gap, reference.FLOAT32_TOLERANCE)


CAUSAL = ("qwen2", "qwen3", "llama", "mistral", "mixtral", "gemma", "gemma2", "phi3", "gpt-neox")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CAUSAL)
def test_scores_keep_their_bits_when_a_prefix_is_shared(folder, name, dtype):
    """A prompt computed once for all its responses, windows and soft caps included."""
    trunk = reference.load(folder(name), dtype)
    prefix = ITEMS[0][:40]
    sequences = [np.concatenate([prefix, item]) for item in ITEMS[1:9]]

    assert trunk.shares_prefixes
    scores = reference.shared(trunk, prefix, ITEMS[1:9])

    gap = np.abs(scores - reference.alone(trunk, sequences)).max()
    assert gap <= (NOT_BIT_EQUAL.get(name, 0.0) if dtype == torch.float32 else 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CAUSAL)
def test_scores_keep_their_bits_when_a_prefix_was_kept(folder, name, dtype):
    """Prompts and growing responses whose beginnings earlier batches left on the device."""
    trunk = reference.load(folder(name), dtype)
    verification.keep_prefixes(trunk, 2**22)
    prompts = [np.concatenate([item, item[::-1]])[:40] for item in ITEMS[:3]]
    rounds = [
        [np.concatenate([prompt, item, later])[:length] for prompt in prompts]
        for item, later in zip(ITEMS[1:9], ITEMS[9:17], strict=True)
        for length in (50, 64, 90)
    ]

    scores, computed = reference.kept(trunk, rounds)

    sequences = [sequence for one in rounds for sequence in one]
    assert computed < 0.7 * sum(map(len, sequences))
    gap = np.abs(scores - reference.alone(trunk, sequences)).max()
    assert gap <= (NOT_BIT_EQUAL.get(name, 0.0) if dtype == torch.float32 else 0.0)


@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta-v3"])
def test_encoders_never_share_a_prefix(folder, name):
    """Their tokens see what follows."""
    assert not reference.load(folder(name)).shares_prefixes


PATHS = {
    "native": {},
    "blocks": {"compiled": False},
    "padded": {"padded": True},
}


@pytest.mark.parametrize("name", ["starter", "modernbert"])
@pytest.mark.parametrize("path", PATHS)
def test_each_path_equals_eager_and_keeps_its_bits(folder, path, name, thread_count):
    """In any batch, behind a shared and a kept prefix, on every path that a machine may take.

    By three threads, among which torch can't split most tensors evenly.
    """
    thread_count(3)
    checkpoint = texts.embedded() / "starter" / "member-1" if name == "starter" else folder(name)
    trunk = reference.load(checkpoint, **PATHS[path])
    verification.keep_prefixes(trunk, 2**24)
    items = ITEMS[:14]
    single = reference.alone(trunk, items)

    assert trunk.attention == ("eager" if path == "padded" else f"assay-{path}")
    assert np.abs(single - reference.eager(checkpoint, items)).max() <= 1e-5
    assert single.tolist() == reference.together(trunk, items, 5, seed=0).tolist()
    if not trunk.shares_prefixes:
        assert path == "padded" or name == "modernbert"
        return
    for length in (7, 40, 130):
        prefix = np.concatenate(items[:6])[:length]
        sequences = [np.concatenate([prefix, item]) for item in items[6:10]]
        alone = reference.alone(trunk, sequences).tolist()
        assert reference.shared(trunk, prefix, items[6:10]).tolist() == alone
        rounds = [[one[: length + step] for one in sequences] for step in (9, 60)]
        kept, _ = reference.kept(trunk, rounds)
        assert kept.tolist() == reference.alone(trunk, [*rounds[0], *rounds[1]]).tolist()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inductor's own imports
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("qwen3", torch.float32),
        ("qwen3", torch.bfloat16),
        ("gemma2", torch.float32),
        ("modernbert", torch.float32),
    ],
)
def test_a_compiled_trunk_keeps_its_scores(folder, name, dtype):
    """Within 1e-5 of the uncompiled trunk in float32, its bits in bfloat16; in any batch."""
    trunk = reference.load(folder(name), dtype)
    before = reference.alone(trunk, ITEMS)

    verification.compile_blocks(trunk)

    assert trunk.is_compiled
    after = reference.alone(trunk, ITEMS)
    assert np.abs(after - before).max() <= (1e-5 if dtype == torch.float32 else 0)
    assert after.tolist() == reference.together(trunk, ITEMS, 7, seed=0).tolist()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inductor's own imports
def test_blocks_that_cannot_be_compiled_run_uncompiled(folder, monkeypatch, tmp_path):
    """A warning says that the compiler failed, not that scores would move."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    trunk = reference.load(folder("qwen3"))
    before = reference.alone(trunk, ITEMS)
    inductor = importlib.import_module("torch._inductor.config")

    with inductor.patch("cpp.cxx", (shutil.which("false"),)):  # which monkeypatch can't put back
        verification.compile_blocks(trunk)

    assert not trunk.is_compiled
    (warning,) = trunk.warnings
    assert "runs uncompiled: couldn't compile its blocks" in warning
    assert "would move" not in warning
    assert reference.alone(trunk, ITEMS).tolist() == before.tolist()


def test_whatever_runs_slower_than_it_could_says_why(folder):
    """No fallback without a warning: no compiler, or an architecture that can't be packed."""
    assert reference.load(folder("qwen3")).warnings == []
    assert "no C++ compiler" in reference.load(folder("qwen3"), compiled=False).warnings[0]
    assert "couldn't run" in reference.load(folder("deberta-v3")).warnings[0]
    assert reference.load(folder("qwen3"), padded=True).warnings == []


@pytest.mark.parametrize("name", ["qwen3", "modernbert", "deberta-v3"])
def test_a_pass_says_once_that_it_comes_to_its_end(folder, name):
    """So that the next batch is sent while this one still runs."""
    said = []

    reference.load(folder(name)).launch(
        PrefixBatch.unshared(ITEMS[:3]), lambda: said.append(name), 0.8
    )

    assert said == [name]


def test_only_trunks_without_the_attention_interface_run_padded(folder):
    """DeBERTa is the one architecture here that can't be packed."""
    padded = {
        name
        for name in ("qwen3", "roberta", "modernbert", "deberta-v3")
        if reference.load(folder(name)).forward == "padded"
    }

    assert padded == {"deberta-v3"}


LONG = {"long_factor": [8.0] * 8, "short_factor": [1.0] * 8}
ROPES = {
    "phi3": {
        "max_position_embeddings": 512,
        "original_max_position_embeddings": 64,
        "rope_parameters": {"rope_type": "longrope", "rope_theta": 10_000.0, **LONG},
    },
    "llama": {
        "max_position_embeddings": 64,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0},
    },
}


@pytest.mark.parametrize("name", ROPES)
def test_positions_that_depend_on_the_batch_bound_an_item(folder, name):
    """Up to the first length scores are eager's in any batch; the trunk takes no longer items."""
    path = folder(name, **ROPES[name])
    trunk = reference.load(path)

    assert trunk.max_tokens == 64
    items = [item[:64] for item in ITEMS]
    scores = trunk.score(PrefixBatch.unshared(items))[:, 0]
    assert np.abs(scores - reference.eager(path, items)).max() <= reference.FLOAT32_TOLERANCE


@pytest.mark.parametrize("kind", ["yarn", "linear"])
def test_stretched_positions_are_eager_s_up_to_what_the_config_states(folder, kind):
    """Four times as many as there are without, in any batch."""
    rope = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0}
    path = folder("llama", max_position_embeddings=64, rope_parameters=rope)
    trunk = reference.load(path)
    items = [np.tile(item, 60)[:256] for item in ITEMS[:3]]

    scores = trunk.score(PrefixBatch.unshared([*items, *ITEMS]))[:3, 0]

    assert stated_tokens(json.loads((path / "config.json").read_text())) == 256
    assert trunk.max_tokens is None
    assert np.abs(scores - reference.eager(path, items)).max() <= reference.FLOAT32_TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "opt", "bert", "roberta"])
def test_a_config_states_as_many_positions_as_there_are(folder, name):
    """Whatever it calls them: a start doesn't offer more than the table has."""
    path = folder(name)
    config = json.loads((path / "config.json").read_text())

    assert stated_tokens(config) == reference.load(path).max_tokens


@pytest.mark.parametrize("pad", [None, 2, 0])
def test_the_pad_id_never_moves_the_reading_position(folder, pad):
    """A trunk reads where it is told, or at the end; the front looks for padding, and no mask."""
    items = [np.append(ITEMS[0], [2]), np.append(ITEMS[1], [2, 2]), ITEMS[2]]
    expected = reference.eager(folder("qwen2", pad_token_id=None), items)

    trunk = reference.load(folder("qwen2", pad_token_id=pad))
    scores = trunk.score(PrefixBatch.unshared(items))[:, 0]

    assert np.abs(scores - expected).max() <= reference.FLOAT32_TOLERANCE


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "modernbert", "deberta-v3"])
def test_padding_within_an_encoder_s_item_counts_as_in_eager(folder, name):
    """RoBERTa's kind gives it no position of its own; text may name it, too."""
    items = [np.concatenate([ITEMS[0][:5], [0], ITEMS[0][5:], [0, 0]]), ITEMS[1], ITEMS[2] * 0]
    items = [item.astype(np.int32) for item in items]

    scores = reference.load(folder(name)).score(PrefixBatch.unshared(items))[:, 0]

    expected = reference.eager(folder(name), items)
    assert np.abs(scores - expected).max() <= reference.FLOAT32_TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_padding_side_of_the_tokenizer_is_ignored(folder, tmp_path, side):
    """A tokenizer that pads on either side gives the same ids, for nothing is ever padded."""
    source = texts.embedded() / "starter" / "member-1"
    for file in source.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for name in ("config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": side}))
    conversations = [
        texts.Conversation(
            ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho " * n})
        )
        for n in (1, 50)
    ]

    rendered = texts.Template(tmp_path).render_all(conversations)
    expected = texts.template().render_all(conversations)

    assert [one.ids.tolist() for one in rendered] == [one.ids.tolist() for one in expected]


@pytest.mark.parametrize("member", [1, 2, 3])
def test_starter_scores_equal_eager_over_two_hundred_items(member):
    """The embedded ensemble's members are served with their own numbers, bit-equal in any batch."""
    path = texts.embedded() / "starter" / f"member-{member}"

    report = reference.compare(path, texts.generated(200), measure_reference=False)

    assert report.gap <= reference.FLOAT32_TOLERANCE
    assert report.changed == 0


def test_an_item_has_the_same_bits_twice_and_among_five_hundred_others():
    """Repeating an item, or adding 500 others, changes nothing in its score, in either dtype."""
    items = texts.generated(500, longest_words=40, seed=7)
    path = texts.embedded() / "starter" / "member-1"
    for dtype in (torch.float32, torch.bfloat16):
        trunk = reference.load(path, dtype)
        single = trunk.score(PrefixBatch.unshared([items[0]]))[0, 0]

        twice = trunk.score(PrefixBatch.unshared([items[0], items[0]]))[:, 0]
        among = trunk.score(PrefixBatch.unshared([*items[1:], items[0]]))[:, 0]

        assert twice.tolist() == [single, single]
        assert among[-1] == single
