"""The command line: `assay serve`, `score`, `models`, `inspect`, `verify`, `average` and others."""

from assay.cli import average, config, key, models, score, serve
from assay.cli.app import app, main

__all__ = ["app", "average", "config", "key", "main", "models", "score", "serve"]
