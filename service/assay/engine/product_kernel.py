"""A product of matrices in Triton whose rows know nothing of each other: one tile for all batches.

A program sums along the whole width, in one order, for a tile of rows and outputs. There is one
build for all numbers of rows, so what a row's sum is made of is always the same.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])
def multiply(
    state,  # (rows, WIDTH)
    weight,  # (OUTS, WIDTH)
    bias,
    out,  # (rows, OUTS)
    rows,
    WIDTH: tl.constexpr,
    OUTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_OUTS: tl.constexpr,
    DEPTH: tl.constexpr,  # of a step along the width
    TOGETHER: tl.constexpr,  # tiles of rows that follow one another, for a weight read once
):
    """Multiply a tile of rows by a tile of the weight."""
    across: tl.constexpr = (OUTS + TILE_OUTS - 1) // TILE_OUTS
    down = tl.cdiv(rows, TILE_ROWS)
    number = tl.program_id(0)
    first = number // (TOGETHER * across) * TOGETHER
    count = tl.minimum(down - first, TOGETHER)
    within = number % (TOGETHER * across)
    row = (first + within % count) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    output = within // count * TILE_OUTS + tl.arange(0, TILE_OUTS)
    is_row, is_output = row < rows, output < OUTS
    step = tl.arange(0, DEPTH)
    state_at = state + row.to(tl.int64)[:, None] * WIDTH + step[None, :]
    weight_at = weight + output.to(tl.int64)[:, None] * WIDTH + step[None, :]
    total = tl.zeros([TILE_ROWS, TILE_OUTS], tl.float32)
    for begin in range(0, WIDTH, DEPTH):
        is_in = (begin + step < WIDTH)[None, :]
        left = tl.load(state_at + begin, mask=is_row[:, None] & is_in, other=0.0)
        right = tl.load(weight_at + begin, mask=is_output[:, None] & is_in, other=0.0)
        total = tl.dot(left, tl.trans(right), total, input_precision="ieee")
    if HAS_BIAS:
        total += tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)[None, :]
    tl.store(
        out + row.to(tl.int64)[:, None] * OUTS + output[None, :],
        total.to(out.dtype.element_ty),
        mask=is_row[:, None] & is_output[None, :],
    )
