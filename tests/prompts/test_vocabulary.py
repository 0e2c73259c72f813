"""Ids that the model has no embedding for: one check, wherever an id comes from."""

from pathlib import Path

import pytest

from assay.cards.card import Card
from assay.errors import CheckpointError, InvalidField
from assay.items import Conversation, Ids, Text
from assay.prompts import notices
from assay.prompts.template import Template
from assay.worker_protocol import Inputs
from tests.prompts import tokenizers

ROWS = 258  # the tokenizer has three tokens more; the last one is spelt "Ń", byte 0xAD
LAST = "\u00ad"  # soft hyphen: bytes 0xC2 0xAD
SMALL = {"vocab_size": ROWS}


def talk(prompt, response):
    """Return one exchange."""
    return Conversation(
        ({"role": "user", "content": prompt}, {"role": "assistant", "content": response})
    )


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ({}, Text(f"a{LAST}")),
        ({}, talk(f"a{LAST}", "b")),
        ({}, talk("a", f"b{LAST}")),
        ({}, Ids((5, ROWS))),
        ({"chat": tokenizers.CHAT + LAST}, talk("a", "b")),
        ({"is_encoder": True, "chat": None}, talk("a", f"b{LAST}")),
    ],
    ids=["text", "prompt", "response", "ids", "template", "pair"],
)
def test_an_id_beyond_the_embedding_fails_alone_wherever_it_comes_from(tmp_path, options, source):
    """On a GPU it would end the process; the items beside it are read."""
    template = Template(tokenizers.make(tmp_path, config=SMALL, **options))
    fine = Ids((5, 6))

    first, refused, last = template.render_all([fine, source, fine])

    assert isinstance(refused, InvalidField)
    assert "the model's vocabulary ends at 257" in refused.message
    assert first.ids.tolist() == last.ids.tolist() == [5, 6]


def test_the_embedding_that_was_loaded_counts_not_what_config_says(tmp_path):
    """config.json may say more, or nothing; of several models the smallest embedding bounds all."""
    template = Template(tokenizers.make(tmp_path, config={"vocab_size": 5000}))

    template.token_ids.hold_to(Inputs(300))
    template.token_ids.hold_to(Inputs(261))

    (refused,) = template.render_all([Ids((261,))])
    assert refused.param == "input_ids"
    assert not isinstance(template.render_all([Ids((260,))])[0], Exception)


def test_a_card_s_token_beyond_the_embedding_stops_the_start(tmp_path):
    """It would be appended to every item."""
    card = Card.model_validate({"template": {"append": [ROWS]}})

    with pytest.raises(CheckpointError, match="the model's embedding has 258 rows"):
        Template(tokenizers.make(tmp_path, config=SMALL), card)


@pytest.mark.parametrize(("rows", "count"), [(ROWS, 1), (261, 0)])
def test_tokens_beyond_the_embedding_are_told_at_the_start(tmp_path, rows, count):
    """Their names and the embedding's rows; nothing where there are none."""
    told = notices.of(Template(tokenizers.make(tmp_path, config={"vocab_size": rows})), None)

    assert len(told) == count
    assert all("beyond the 258 rows of the model's embedding" in one for one in told)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"max_position_embeddings": 256}, 1),
        ({"max_position_embeddings": 1000}, 0),
        ({"max_position_embeddings": 256, "rope_scaling": {"type": "linear", "factor": 4.0}}, 0),
        ({}, 0),
    ],
)
def test_a_limit_beyond_the_stated_positions_is_told_at_the_start(tmp_path, config, count):
    """Rotary positions have no table that would refuse it; stretched ones reach further."""
    folder = tokenizers.make(tmp_path, config={"vocab_size": ROWS, **config})

    told = [
        one for one in notices.of(Template(folder, max_tokens=1000), None) if "positions" in one
    ]

    assert len(told) == count
    assert all("limit of 1000 tokens" in one and "the 256 positions" in one for one in told)


def test_a_config_that_is_wrong_is_what_is_blamed(tmp_path: Path) -> None:
    """Not the tokenizer, before which transformers reads it."""
    folder = tokenizers.make(tmp_path, config={"num_hidden_layers": "2"})

    with pytest.raises(CheckpointError, match=r"config\.json can't be read: .*num_hidden_layers"):
        Template(folder)
