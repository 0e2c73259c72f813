"""Attention over a packed prefix batch: one interface to transformers, four ways to compute it."""
