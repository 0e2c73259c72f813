"""The pages of the documentation that are written from the code: `python -m assay.reference docs`.

Each module returns the generated part of one page as Markdown. Not here: the words around it, which
stand in the page itself.
"""
