"""Which lengths are safe, by what configs say."""

import pytest

from assay.engine.positions import steady_tokens

LONG = {"max_position_embeddings": 131_072, "original_max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 4096}, None),
        ({"rope_parameters": {"rope_type": "default"}}, None),
        ({"rope_parameters": {"rope_type": "yarn"}, **LONG}, None),
        ({"rope_parameters": {"rope_type": "longrope"}, **LONG}, 4096),
        ({"rope_scaling": {"type": "su"}, **LONG}, 4096),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 2048},
            2048,
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {
                        "rope_type": "longrope",
                        "original_max_position_embeddings": 1024,
                    },
                    "sliding_attention": {"rope_type": "default"},
                }
            },
            1024,
        ),
    ],
)
def test_only_ropes_that_look_at_the_batch_bound_an_item(config, tokens):
    """Old names and new ones, for the whole model or a kind of layer."""
    assert steady_tokens(config) == tokens
