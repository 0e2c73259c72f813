"""Assay: reward models over HTTP. Importing this costs no torch."""

__version__ = "0.1.0"
