"""The command line: `assay serve`, `score`, `calibrate`, `average`, `models` and others."""

from assay.cli import average, calibrate, config, key, laplace, models, score, serve
from assay.cli.app import app, main

__all__ = [
    "app",
    "average",
    "calibrate",
    "config",
    "key",
    "laplace",
    "main",
    "models",
    "score",
    "serve",
]
