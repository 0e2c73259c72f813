"""Encoders that tell segments apart, against transformers eager with the same token type ids."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from assay.engine import model_runner as trunks
from assay.engine import verification
from assay.worker_protocol import PrefixBatch
from tests.fidelity import checkpoints, reference

SMALL = {**checkpoints.SMALL, **checkpoints.POSITIONS, "type_vocab_size": 2}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
KINDS = {
    "packed": {
        "bert": ("BertConfig", {}),
        "electra": ("ElectraConfig", {"embedding_size": 32}),
        "albert": ("AlbertConfig", {"embedding_size": 32}),
        "ernie": ("ErnieConfig", {}),
        "nomic-bert": ("NomicBertConfig", {}),
    },
    "padded": {
        "deberta-v2": ("DebertaV2Config", {**DEBERTA, "position_buckets": 32}),
        "roformer": ("RoFormerConfig", {"embedding_size": 64}),
    },
}
VOCABULARY = 300


def make(folder, forward, name):
    """Write a random checkpoint and return its trunk and transformers' own model."""
    kind, options = KINDS[forward][name]
    config = getattr(transformers, kind)(vocab_size=VOCABULARY, **{**SMALL, **options})
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    checkpoints._spread(model)
    model.save_pretrained(folder)
    trunk = trunks.load(folder, device=torch.device("cpu"), dtype=torch.float32)
    verification.verify(trunk, compiled=True)
    own = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager"
    )
    return trunk, own.eval()


def batch(items, segments):
    """Return items with their segment ids as one batch."""
    return replace(PrefixBatch.unshared(items), segments=np.concatenate(segments))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("forward", "name"), [(forward, name) for forward, kinds in KINDS.items() for name in kinds]
)
def test_segment_ids_count_as_in_eager_and_scores_keep_their_bits(tmp_path, forward, name):
    """Items of equal ids and other segments are two items, in one batch, too."""
    trunk, own = make(tmp_path, forward, name)
    random = np.random.default_rng(0)
    items = [random.integers(5, VOCABULARY, size).astype(np.int32) for size in (7, 70, 70, 12)]
    items[2] = items[1]
    segments = [
        (np.arange(len(ids)) >= first).astype(np.int32)
        for ids, first in zip(items, (3, 20, 50, 12), strict=True)
    ]

    scores = trunk.score(batch(items, segments))[:, 0]

    rows = [
        [torch.from_numpy(one)[None].long() for one in pair]
        for pair in zip(items, segments, strict=True)
    ]
    expected = [float(own(ids, token_type_ids=types).logits[0, 0]) for ids, types in rows]
    alone = [
        trunk.score(batch([ids], [types]))[0, 0] for ids, types in zip(items, segments, strict=True)
    ]
    assert trunk.forward == forward
    assert np.abs(scores - expected).max() <= reference.FLOAT32_TOLERANCE
    assert scores.tolist() == alone
    assert abs(scores[1] - scores[2]) > 1e-3
    assert not trunk.shares_prefixes
