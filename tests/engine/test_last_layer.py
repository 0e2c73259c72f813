"""A trunk's last layer, narrowed to what is read."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from assay.engine import verification
from assay.engine.attention import interface
from assay.engine.compilation import repeated_blocks
from assay.engine.last_layer import LastLayer
from assay.engine.packing import ROWS, pack
from assay.engine.sample import Sample
from assay.worker_protocol import PrefixBatch
from tests.fidelity import checkpoints, reference, texts

ITEMS = texts.generated(12, longest_words=60)
WHOLE = {"gpt2", "modernbert-mean", "deberta-v3"}  # a view of all rows, all are read, padded
NOT_BIT_EQUAL = {"mixtral": 2e-6}  # an expert's sums depend on how many rows it sees
WITH_QUERIES = {"phi3", "gpt-neox", "opt", "modernbert"}  # fused with keys, or shaped by their own


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make each architecture's checkpoint once."""
    root = tmp_path_factory.mktemp("last_layer")

    def make(name):
        if not (root / name).exists():
            checkpoints.make(root / name, name, vocabulary=texts.vocabulary())
        return root / name

    return make


def whole(trunk, batch):
    """Return a batch's scores with all rows of the last layer computed."""
    narrowed, trunk.last_layer = trunk.last_layer, None
    narrowed.remove()
    try:
        return trunk.score(batch)
    finally:
        narrowed.install()
        trunk.last_layer = narrowed


def batches(trunk):
    """Return items alone, together, and behind a prefix that they share."""
    yield PrefixBatch.unshared(ITEMS[:1])
    yield PrefixBatch.unshared(ITEMS)
    if trunk.shares_prefixes:
        runs = PrefixBatch.unshared([ITEMS[0], ITEMS[1], ITEMS[2], ITEMS[3]])
        parents = np.array([-1, 0, 0, 1], np.int32)
        yield replace(runs, parents=parents, reads=np.array([1, 2, 3, 0], np.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", checkpoints.ARCHITECTURES)
def test_scores_keep_their_bits(folder, name, dtype):
    """Every architecture, alone, among others and behind a shared prefix."""
    trunk = reference.load(folder(name), dtype)

    assert (trunk.last_layer is None) == (name in WHOLE)
    for batch in batches(trunk) if trunk.last_layer else ():
        few, all_rows = trunk.score(batch), whole(trunk, batch)
        assert abs(few - all_rows).max() <= NOT_BIT_EQUAL.get(name, 0.0)


@pytest.mark.parametrize("name", sorted(set(checkpoints.ARCHITECTURES) - WHOLE))
def test_it_computes_no_more_than_what_is_read(folder, name):
    """Its parts see the read rows, filled up; only what makes keys and values sees all."""
    trunk = reference.load(folder(name))
    seen = {}
    last = repeated_blocks(trunk.model.base_model)[-1][-1]
    for path, module in last.named_modules():
        if type(module).__name__ == "PrepackedLinear":
            module.register_forward_hook(
                lambda _, args, __, path=path: seen.setdefault(path, []).append(args[0].shape[-2])
            )

    batch = PrefixBatch.unshared(ITEMS)
    trunk.score(batch)

    rows, few = len(pack(batch).ids), -(-len(ITEMS) // ROWS) * ROWS
    of_all = {path for path, counts in seen.items() if rows in counts}
    of_queries = {path for path in of_all if path.endswith(("q_proj", "query"))}
    assert all(few in counts for counts in seen.values() if counts)
    assert len(of_all) <= 3
    assert bool(of_queries) == (name == "opt")


def test_any_rows_may_be_read(folder):
    """Steps, every token, tokens of a shared run: what the batch says, in its order."""
    trunk = reference.load(folder("qwen3"))
    batch = PrefixBatch.unshared(ITEMS[:4])
    tokens = batch.tokens
    random = np.random.default_rng(0)
    for rows in (np.arange(tokens), random.permutation(tokens)[:40], np.array([7, 7, 3])):
        reading = replace(batch, read_rows=rows.astype(np.int32))

        assert (trunk.score(reading) == whole(trunk, reading)).all()


def test_kept_blocks_hold_the_last_layers_keys_of_all_rows(folder):
    """What continues them reads them there, though no head read these rows."""
    trunk = reference.load(folder("qwen3"))
    verification.keep_prefixes(trunk, 1 << 20)
    assert trunk.block_cache is not None
    sample = Sample((ITEMS[0], np.append(ITEMS[0][:40], ITEMS[1])), segments=0)
    first, then = sample.continued()
    alone = trunk.score(sample.pair())

    trunk.score(first)

    assert (trunk.score(then) == alone).all()


def test_a_layer_that_does_not_attend_is_computed_whole():
    """There are none of its keys to take; and a trunk without a list of layers has no last one."""
    layers = torch.nn.ModuleList([torch.nn.Identity()])
    trunk = torch.nn.ModuleDict({"layers": layers})

    with pytest.raises(interface.UnsupportedAttention):
        LastLayer(torch.nn.Identity(), 1, drops_queries=False)
    with pytest.raises(interface.UnsupportedAttention):
        LastLayer(trunk, 1, drops_queries=True)
    LastLayer(trunk, 1, drops_queries=False).install()
    packed = pack(PrefixBatch.unshared(ITEMS[:1]))
    with (
        interface.over(packed, rows=packed.last_rows),
        pytest.raises(interface.UnsupportedAttention),
    ):
        layers[0](torch.zeros(1, len(packed.ids), 4))
