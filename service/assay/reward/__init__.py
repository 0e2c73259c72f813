"""What a reward means: pure functions on numbers. Imports nothing else of Assay."""
