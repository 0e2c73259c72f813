"""A JSONL file of items and comparisons in, a JSONL file of answers out.

Order is kept and what is done is never done again: line i of the output answers the i-th line of
the input that isn't blank, so a run that was cut off goes on after the last whole line it wrote,
and only where it would have gone on with the same: model, revision, input and options.
"""

from assay.bulk.record import Options, Target
from assay.bulk.remote import Remote
from assay.bulk.run import Service, run
from assay.bulk.tally import Tally

__all__ = ["Options", "Remote", "Service", "Tally", "Target", "run"]
