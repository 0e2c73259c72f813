"""What a reward is worth, fitted offline to labelled pairs: `assay calibrate`.

Read and divided by prompt (`pairs`), fitted on one part (`fit`), held against the other (`report`),
written as one file (`overlay`). The server reads that file and imports nothing from here.
"""
