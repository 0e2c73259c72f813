"""What a device says of a model."""

from assay.scheduling.policy import BATCH_SIZES
from assay.worker_protocol import Inputs, Loaded


def loaded(model, budget, *, shares, tokens_per_s=1.0):
    """Return a model that takes batches of this many tokens."""
    return Loaded(
        model=model,
        architecture="Judge",
        device="cpu",
        dtype="float32",
        forward="packed",
        attention="blocks",
        is_compiled=False,
        shares_prefixes=shares,
        reads="last",
        outputs={"reward": 1},
        inputs=Inputs(100),
        parameters=1,
        budget_tokens=budget,
        prefix_blocks=0,
        tokens_per_s=tokens_per_s,
        most_batch_tokens=BATCH_SIZES[-1],
    )
