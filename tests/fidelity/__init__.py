"""Scores against independent references: transformers eager, a batch of one.

The tests use generated text. `python -m tests.fidelity --items FILE` runs the same comparisons on
the items of a JSONL file (`prompt` with `chosen` and `rejected`, or with `response`).
"""
