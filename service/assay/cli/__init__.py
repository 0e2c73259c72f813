"""The command line: `assay serve`, `score`, `models`, `inspect`, `verify`, `key` and `config`."""

from assay.cli import config, key, models, score, serve
from assay.cli.app import app, main

__all__ = ["app", "config", "key", "main", "models", "score", "serve"]
