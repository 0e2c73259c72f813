"""The command line: `assay serve`, `score`, `calibrate`, `models`, `inspect` and the like."""

from assay.cli import calibrate, config, key, models, score, serve
from assay.cli.app import app, main

__all__ = ["app", "calibrate", "config", "key", "main", "models", "score", "serve"]
