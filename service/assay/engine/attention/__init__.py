"""Attention over a packed forest: one interface to transformers, three ways to compute it."""
