"""Every constant that decides which batch runs when, and how large it is. Pure.

Seconds and tokens are named so; a part is of what its comment names. A worker gets `WARM_UP` with
the first message, and `PREFETCH_PART` with each batch.
"""

from __future__ import annotations

import math

from assay.worker_protocol import WarmUp

# --- how large a batch is -------------------------------------------------------------------

BATCH_SIZES = (256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)  # tokens, to choose from
LONGEST_BATCH_S = 1.2  # that a batch of a chosen size takes: a newcomer waits behind it
SHORTEST_BATCH_S = 0.1  # below, what a batch costs besides its tokens shows
FULL_PART = 0.75  # of the budget, about as fast: the next item often doesn't fit the rest
RECOVERY_S = 30.0  # without running out of memory, until a budget that was halved doubles
LEAST_PART = 1 / 64  # of the budget, down to which it is halved

WARM_UP = WarmUp(
    sizes=BATCH_SIZES,
    longest_s=LONGEST_BATCH_S,
    shortest_s=0.4,  # below, one lucky reading would choose a batch that isn't fast
    shortest_fast_s=SHORTEST_BATCH_S,
    as_fast=0.97,  # of the fastest rate: the smallest batch that has it is taken
    faster=1.08,  # times that rate, as its neighbour is: no luck, but a batch that fits the caches
)

# --- when it runs ---------------------------------------------------------------------------

BATCHES_AT_WORKER = 2  # one running, one waiting
PREFETCH_PART = 0.8  # of a batch's layers: what is left gives time to plan and send the next one
BATCH_HEAD_START_TOKENS = 65_536  # by which batch priority's turns are later
TURN_PART = 0.5  # of a batch's first item's tokens, by which the turn moves on at least
SHARED_PREFIX_PART = 1 / 8  # of the head's tokens, that an item shares which may overtake for it

# --- which other sizes are tried among callers' batches, and taken --------------------------

HOP_S = 0.003  # what a batch costs beside its tokens, most of it hidden
READINGS = 5  # batches of the chosen size, that a trial is compared with
TRIALS = 3  # batches of each size
PROOF_TRIALS = 8  # more of a size that seems a little faster, for batches differ
FASTER = math.log(1.02)  # gain in the rate of a size that is taken instead of the chosen one
EVIDENT = math.log(1.08)  # gain, in all trials, that needs no proof
AS_FAST = math.log(1.01)  # gain up to which the smaller one is taken of two sizes
SLOWER = math.log(0.95)  # gain of a size beyond which nothing is tried
HOPELESS = math.log(0.85)  # gain of two trials after which there is no third
ANOTHER = 1.5  # times the rate it was: the device isn't what it was
DOUBTFUL = 1.25  # times warm-up's rate: its readings say nothing
DOUBTFUL_COST = 1.0  # seconds at the chosen size for each of a trial, where warm-up is doubtful
COST = 16.0  # seconds for each, otherwise
QUIET_S = 30.0  # at work between two looks around
MOST_LOOKS = 3  # one after another
