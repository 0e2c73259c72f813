"""Attention over a packed prefix batch: one interface to transformers, three ways to compute it."""
