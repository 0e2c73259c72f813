"""What Assay uses of other packages that they don't promise to keep, and what breaks without it."""

from __future__ import annotations

import importlib
import inspect
from operator import attrgetter

import pytest

PROTOCOL = "uvicorn.protocols.http.httptools_impl"
SERVER = "uvicorn.server"

# A class, the methods that ours extends with what they take, and what these are for.
EXTENDED = {
    "api/connection.py: bounds of a head, of connections, of how long an answer stays unread": (
        f"{PROTOCOL}.HttpToolsProtocol",
        {
            "connection_made": "self, transport",
            "connection_lost": "self, exc",
            "data_received": "self, data",
            "on_message_begin": "self",
            "on_url": "self, url",
            "on_header": "self, name, value",
            "on_headers_complete": "self",
            "on_message_complete": "self",
            "on_response_complete": "self",
            "pause_writing": "self",
            "resume_writing": "self",
            "send_400_response": "self, msg",
        },
    ),
    "api/server.py: the drain, signals on the loop, garbage while idle": (
        f"{SERVER}.Server",
        {
            "capture_signals": "self",
            "on_tick": "self, counter",
            "serve": "self, sockets",
            "shutdown": "self, sockets",
        },
    ),
}

# A class, the attributes of its objects that ours reads or sets, and what these are for.
HELD = {
    "api/connection.py": (
        f"{PROTOCOL}.HttpToolsProtocol",
        "flow loop parser timeout_keep_alive_task transport",
    ),
    "api/server.py": (f"{SERVER}.ServerState", "connections tasks"),
}

# A name of torch, and what it is for.
OF_TORCH = {
    "ops.mkldnn._linear_pointwise": "engine/compilation.py: products of prepacked weights",
    "ops.mkldnn._reorder_linear_weight": "engine/compilation.py: weights laid out once",
    "ops.mkldnn._is_mkldnn_bf16_supported": "engine/compilation.py: which weights can be",
    "ops.onednn.qlinear_prepack": "engine/quantization.py: int8 weights laid out once",
    "ops.onednn.qlinear_pointwise": "engine/quantization.py: int8 products on a CPU",
    "_int_mm": "engine/quantization.py: int8 products on CUDA",
    "_scaled_mm": "engine/quantization.py: FP8 products on CUDA",
    "ops.aten._flash_attention_forward": "engine/attention/varlen.py: packed attention on CUDA",
    "_inductor.config.emulate_precision_casts": "engine/compilation.py: eager's roundings",
    "_inductor.lowering.make_fallback": "engine/compilation.py: eager's order of sums",
    "_dynamo.config.recompile_limit": "engine/compilation.py: programs for all blocks",
    "_dynamo.config.fail_on_recompile_limit_hit": "engine/compilation.py: no silent eager",
}


def found(path: str) -> type:
    module, _, name = path.rpartition(".")
    kind: type = getattr(importlib.import_module(module), name)
    return kind


@pytest.mark.parametrize("reason", EXTENDED)
def test_the_methods_that_ours_extend_are_there(reason: str) -> None:
    """With the parameters that ours give them."""
    path, methods = EXTENDED[reason]
    kind = found(path)

    known = {
        name: ", ".join(inspect.signature(getattr(kind, name)).parameters)
        for name in methods
        if hasattr(kind, name)
    }

    assert known == methods, reason


@pytest.mark.parametrize("module", HELD)
def test_the_attributes_that_ours_use_are_there(module: str) -> None:
    """They are set in a constructor, or in what it calls."""
    path, names = HELD[module]
    source = inspect.getsource(found(path))

    missing = [name for name in names.split() if f"self.{name}" not in source]

    assert not missing, module


@pytest.mark.parametrize("name", OF_TORCH)
def test_the_names_of_torch_are_there(name: str) -> None:
    """At torch's pinned version; a later one may rename them."""
    torch = importlib.import_module("torch")
    for module in ("torch._dynamo", "torch._inductor.lowering"):
        importlib.import_module(module)

    assert attrgetter(name)(torch) is not None, OF_TORCH[name]


def test_what_ours_replaces_of_transformers_is_asked_for_still() -> None:
    """engine/attention/interface.py: no look for packed sequences, which waits for a GPU."""
    module = importlib.import_module("transformers.masking_utils")
    interface = importlib.import_module("assay.engine.attention.interface")
    source = inspect.getsource(module)

    assert list(inspect.signature(interface._find_sequences).parameters) == ["position_ids"]
    assert source.count("find_packed_sequence_indices(") > 1
