"""Which lengths are safe, by what configs say."""

import pytest

from assay.cards.positions import stated_tokens, steady_tokens

LONG = {"max_position_embeddings": 131_072, "original_max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 4096}, None),
        ({"rope_parameters": {"rope_type": "default"}}, None),
        ({"rope_parameters": {"rope_type": "yarn"}, **LONG}, None),
        ({"rope_parameters": {"rope_type": "longrope"}, **LONG}, 4096),
        ({"rope_scaling": {"type": "su"}, **LONG}, 4096),
        ({"index_topk": 2048, **LONG}, 2048),
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
def test_only_what_looks_at_the_batch_bounds_an_item(config, tokens):
    """Ropes by old names and new ones, for all layers or a kind; attention that is sparse."""
    assert steady_tokens(config) == tokens


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
LINEAR = {"type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({}, None),
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 40_960, "rope_scaling": YARN}, 131_072),
        ({"max_position_embeddings": 131_072, "rope_parameters": YARN}, 131_072),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "yarn", "factor": 2}}, 8192),
        ({"max_position_embeddings": 8192, "rope_scaling": {**YARN, "factor": None}}, 8192),
        ({"max_position_embeddings": 4096, "rope_scaling": LINEAR}, 16_384),
        (
            {"max_position_embeddings": 4096, "max_sequence_length": 8192, "rope_scaling": LINEAR},
            8192,
        ),
        (
            {
                "max_position_embeddings": 131_072,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "original_max_position_embeddings": 8192,
                },
            },
            131_072,
        ),
        (
            {
                "max_position_embeddings": 8192,
                "rope_parameters": {
                    "full_attention": YARN,
                    "sliding_attention": {"rope_type": "default"},
                },
            },
            131_072,
        ),
        (
            {
                "model_type": "gemma3_text",
                "max_position_embeddings": 131_072,
                "rope_scaling": LINEAR,
            },
            131_072,
        ),
        ({"model_type": "gpt2", "n_positions": 1024, "n_ctx": 1024}, 1024),
        ({"model_type": "mpt", "max_seq_len": 2048}, 2048),
        ({"model_type": "bloom", "seq_length": 2048}, None),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 0}, 513),
    ],
)
def test_a_limit_is_what_the_configuration_stretches_to(config, tokens):
    """YaRN and linear scaling by their factor; Llama 3's and Gemma 3's length is stated."""
    assert stated_tokens(config) == tokens
