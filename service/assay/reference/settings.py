"""docs/settings.md: every setting, as a line of `assay.toml`, of the environment and of a command.

Each example is one that can be copied: a test loads it from the file and from the environment.
"""

from __future__ import annotations

import json
import shlex
import textwrap
from typing import TYPE_CHECKING, Any

from assay.reference import cli
from assay.reference.schema import code, default, words
from assay.settings import PREFIX, Settings

if TYPE_CHECKING:
    from assay.reference.schema import Schema

# What stands for a setting whose default says nothing of how it is written.
EXAMPLES: dict[str, Any] = {
    "models": ["starter", "/data/judge"],
    "names": {"judge": "/data/judge-v2"},
    "ensembles": {"pair": ["judge-a", "judge-b"]},
    "aliases": {"gpt-judge": "starter"},
    "composites": {
        "helpful-and-safe": {
            "parts": {
                "helpful": {"target": "helpsteer2", "attribute": "helpfulness", "weight": 0.7},
                "safe": {"target": "beaver-cost", "weight": 0.3},
            },
            "gate": {"part": "safe", "at_least": 0.0, "otherwise": -10.0},
        }
    },
    "calibrations": {"judge": "/data/judge-calibration.toml"},
    "remotes": {"judge": {"url": "http://gpu-1:8000", "contract": "vllm-classify"}},
    "trust_remote_code": [f"judge@{'0123456789abcdef' * 4}"],
    "worker_variables": ["NCCL_DEBUG"],
    "device": ["cuda:0", "cuda:1"],
    "threads": 8,
    "invariant": True,
    "max_tokens": 4096,
    "batch_tokens": 16384,
    "prefix_cache_mb": 2048,
    "max_connections": 4096,
    "api_key": ["assay_replace-this-key"],
    "admin_key": ["assay_replace-this-key-too"],
    "key_file": "keys.toml",
    "tls_certificate": "certificate.pem",
    "tls_key": "certificate-key.pem",
    "cors_origins": ["https://annotate.example"],
    "allowed_hosts": ["host.docker.internal"],
    "tracing": True,
}
_WIDTH = 100
# Options of `assay serve` by the setting that they are of, where the two are called otherwise.
_OPTIONS = {"repository_folder": "repository"}


def markdown() -> str:
    """Return a section for each setting, in the order in which they are declared."""
    schema = Settings.model_json_schema()
    flags = _flags()
    return "\n\n".join(_section(name, one, flags) for name, one in schema["properties"].items())


def example(name: str) -> Any:
    """Return a value that shows how a setting is written."""
    return EXAMPLES.get(name, Settings.model_json_schema()["properties"][name].get("default"))


def in_file(name: str) -> str:
    """Return a setting as `assay.toml` has it."""
    value = example(name)
    if name == "composites":
        return _COMPOSITE
    if name == "remotes":
        (own,) = value
        rows = (f"{key} = {json.dumps(one)}" for key, one in value[own].items())
        return "\n".join([f"[{name}.{own}]", *rows])
    if isinstance(value, dict):
        rows = (f"{key} = {json.dumps(one)}" for key, one in value.items())
        return "\n".join([f"[{name}]", *rows])
    return f"{name} = {json.dumps(value)}"


def in_environment(name: str) -> str:
    """Return what a variable of the environment says of a setting."""
    value = example(name)
    if isinstance(value, list):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value)


# In the short form that people write.
_COMPOSITE = """[composites.helpful-and-safe]
parts.helpful = { target = "helpsteer2", attribute = "helpfulness", weight = 0.7 }
parts.safe = { target = "beaver-cost", weight = 0.3 }
gate = { part = "safe", at_least = 0.0, otherwise = -10.0 }"""


def _section(name: str, schema: Schema, flags: dict[str, str]) -> str:
    variable = f"{PREFIX}{name.upper()}"
    lines = [f"{variable}={shlex.quote(in_environment(name))}"]
    if name in flags:
        lines.append(_on_command_line(name, flags[name]))
    shell = "\n".join(lines)
    return (
        f"### `{name}`\n\n{textwrap.fill(schema['description'], _WIDTH)}\n\n"
        f"Type: {words(schema, _table, has_null=False)}. Default: {_default(name, schema)}.\n\n"
        f"```toml\n{in_file(name)}\n```\n\n```sh\n{shell}\n```"
    )


def _table(name: str) -> str:
    return f"table ({code(name)})"


def _default(name: str, schema: Schema) -> str:
    said = default(schema, is_required=False)
    return said if name not in {"api_key", "admin_key"} else "none"


def _flags() -> dict[str, str]:
    """Return the options of `assay serve` by their settings; an argument has no dashes."""
    return {
        _OPTIONS.get(one.name or "", one.name or ""): typed if typed.startswith("-") else ""
        for typed, one in cli.options(cli.commands()["serve"])
    }


def _on_command_line(name: str, flag: str) -> str:
    value = example(name)
    if value is True:
        return f"assay serve {flag}"
    if isinstance(value, dict):
        said = [f"{key}={one}" for key, one in value.items()]
    elif name in {"models", "trust_remote_code"}:
        said = value
    else:
        said = [in_environment(name)]
    return " ".join(["assay serve", *(f"{flag} {shlex.quote(one)}".strip() for one in said)])
