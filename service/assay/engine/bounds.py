"""What a loaded model can be asked: how long its sequences are, how many numbers its heads give.

Shapes alone tell, so that a model on `messages.OUTLINE` can be asked, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from assay.cards import validation
from assay.cards.positions import steady_tokens
from assay.errors import CheckpointError

if TYPE_CHECKING:
    import transformers

    from assay.cards.card import Card
    from assay.engine.readout import Readout


_TABLES = {"position_embeddings", "embed_positions", "positions_embed", "wpe"}


def check(model: transformers.PreTrainedModel, readout: Readout, card: Card, limit: int) -> None:
    """Refuse a card, or a limit in tokens, that doesn't go with what was loaded.

    Raises:
        CheckpointError: It doesn't; says which field.
    """
    if problems := validation.of_score(card, outputs(model, readout)):
        raise CheckpointError("; ".join(problems))
    most = max_tokens(model)
    if most is not None and limit > most:
        raise CheckpointError(
            f"the limit of {limit} tokens exceeds the {most} positions that the model has, or to "
            "which they don't depend on the batch; lower max_tokens, or limits.max_tokens in the "
            "card"
        )


def outputs(model: transformers.PreTrainedModel, readout: Readout) -> dict[str, int]:
    """Return how many numbers each head gives."""
    return readout.head.sizes(model.config.get_text_config().hidden_size, model.device)


def max_tokens(model: transformers.PreTrainedModel) -> int | None:
    """Return the longest sequence that a trunk has positions for; None where it has no bound."""
    table = _position_table(model)
    if table is not None:  # OPT's skips its first rows by itself
        return table.num_embeddings - first_position(model) - getattr(table, "offset", 0)
    return steady_tokens(model.config.get_text_config().to_dict())


def first_position(model: transformers.PreTrainedModel) -> int:
    """Return the position of a sequence's first token: RoBERTa counts from its padding index."""
    table = _position_table(model)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def _position_table(model: transformers.PreTrainedModel) -> torch.nn.Embedding | None:
    """Return the table of learned absolute positions, where the trunk has one."""
    for name, module in model.base_model.named_modules():
        if name.split(".")[-1] in _TABLES and isinstance(module, torch.nn.Embedding):
            return module
    return None
