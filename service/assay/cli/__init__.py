"""The command line: `assay serve`, `score`, `models`, `inspect`, `verify`, `average` and others."""

from assay.cli import average, config, key, laplace, models, score, serve
from assay.cli.app import app, main

__all__ = ["app", "average", "config", "key", "laplace", "main", "models", "score", "serve"]
