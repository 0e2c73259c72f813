"""The kernels in Triton: each program computes a few rows, and no row knows of another.

Arithmetic is in float32, rounded to the states' dtype where transformers' modules round. A layer
has one build of a kernel for all batches: a product and a sum may be fused in one build and not in
another, and then have other bits. So no build depends on the number of rows.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _spread(numbers, eps, WIDTH: tl.constexpr):
    """Return one over the root of each row's mean square."""
    return tl.rsqrt(tl.sum(numbers * numbers, 1) / WIDTH + eps)


@triton.jit
def _weighted(
    numbers,
    spread,
    factor,
    kind: tl.constexpr,
    HAS_OFFSET: tl.constexpr,
    ROUNDS_FIRST: tl.constexpr,
):
    """Return rows of numbers as an RMSNorm leaves them, rounded to a kind."""
    factor = factor.to(tl.float32)
    if HAS_OFFSET:
        factor = factor + 1.0
    scaled = numbers * spread[:, None]
    if ROUNDS_FIRST:
        scaled = scaled.to(kind).to(tl.float32)
    return (scaled * factor[None, :]).to(kind).to(tl.float32)


@triton.jit(do_not_specialize=["rows"])
def norm(
    state,  # (rows, WIDTH), and so are residual, total and out
    residual,
    first_weight,
    weight,
    total,
    out,
    first_eps,
    eps,
    rows,
    WIDTH: tl.constexpr,
    WIDTH_FILLED: tl.constexpr,  # to a power of two
    ROWS: tl.constexpr,
    HAS_FIRST: tl.constexpr,  # the state is normalized before it is added
    HAS_RESIDUAL: tl.constexpr,
    HAS_OFFSET: tl.constexpr,  # a weight of 0 is a factor of 1
    ROUNDS_FIRST: tl.constexpr,  # before it is weighted
):
    """Add states to a residual, and normalize what comes out."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH_FILLED)
    is_column = column < WIDTH
    is_in = (row < rows)[:, None] & is_column[None, :]
    at = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    kind: tl.constexpr = out.dtype.element_ty
    numbers = tl.load(state + at, mask=is_in, other=0.0).to(tl.float32)
    if HAS_FIRST:
        factor = tl.load(first_weight + column, mask=is_column, other=0.0)
        spread = _spread(numbers, first_eps, WIDTH)
        numbers = _weighted(numbers, spread, factor, kind, HAS_OFFSET, ROUNDS_FIRST)
    if HAS_RESIDUAL:
        numbers += tl.load(residual + at, mask=is_in, other=0.0).to(tl.float32)
        tl.store(total + at, numbers.to(kind), mask=is_in)
        numbers = numbers.to(kind).to(tl.float32)
    factor = tl.load(weight + column, mask=is_column, other=0.0)
    spread = _spread(numbers, eps, WIDTH)
    numbers = _weighted(numbers, spread, factor, kind, HAS_OFFSET, ROUNDS_FIRST)
    tl.store(out + at, numbers.to(kind), mask=is_in)


@triton.jit(do_not_specialize=["rows"])
def rotate(
    query,
    key,
    cos,  # (rows, ROTATED), and so is sin
    sin,
    query_weight,
    key_weight,
    query_out,  # (rows, HEADS, WIDTH)
    key_out,  # (rows, KV_HEADS, WIDTH)
    eps,
    query_head,  # strides, in elements; those of a width are 1
    query_row,
    key_head,
    key_row,
    rows,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_FILLED: tl.constexpr,
    ROTATED: tl.constexpr,  # of a width, the first part
    ROWS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_OFFSET: tl.constexpr,
    ROUNDS_FIRST: tl.constexpr,
    ROUNDS_PRODUCTS: tl.constexpr,
):
    """Normalize one head of some rows, and turn it by their positions' angles."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1)
    is_query = head < HEADS
    kv_head = tl.where(is_query, 0, head - HEADS)
    query_at = tl.where(is_query, head, 0)
    is_row = row < rows
    far = row.to(tl.int64)
    column = tl.arange(0, WIDTH_FILLED)
    half: tl.constexpr = ROTATED // 2
    partner = tl.where(column < half, column + half, column - half)
    is_turned = column < ROTATED
    is_column = column < WIDTH
    kind: tl.constexpr = query_out.dtype.element_ty
    source = tl.where(
        is_query,
        query + query_at * query_head + far * query_row,
        key + kv_head * key_head + far * key_row,
    )
    numbers = tl.load(
        source[:, None] + column[None, :], mask=is_row[:, None] & is_column[None, :], other=0.0
    ).to(tl.float32)
    is_in = is_row[:, None] & is_turned[None, :]
    others = tl.load(source[:, None] + partner[None, :], mask=is_in, other=0.0).to(tl.float32)
    if HAS_NORM:
        spread = _spread(numbers, eps, WIDTH)
        factor_at = tl.where(is_query, query_weight + column, key_weight + column)
        factor = tl.load(factor_at, mask=is_column, other=0.0)
        numbers = _weighted(numbers, spread, factor, kind, HAS_OFFSET, ROUNDS_FIRST)
        factor_at = tl.where(is_query, query_weight + partner, key_weight + partner)
        factor = tl.load(factor_at, mask=is_turned, other=0.0)
        others = _weighted(others, spread, factor, kind, HAS_OFFSET, ROUNDS_FIRST)
    angle = far[:, None] * ROTATED + column[None, :]
    straight = numbers * tl.load(cos + angle, mask=is_in, other=0.0).to(tl.float32)
    across = others * tl.load(sin + angle, mask=is_in, other=0.0).to(tl.float32)
    if ROUNDS_PRODUCTS:
        straight = straight.to(kind).to(tl.float32)
        across = across.to(kind).to(tl.float32)
    turned = tl.where((column < half)[None, :], straight - across, straight + across)
    numbers = tl.where(is_turned[None, :], turned, numbers)
    target = tl.where(
        is_query,
        query_out + (far * HEADS + query_at) * WIDTH,
        key_out + (far * KV_HEADS + kv_head) * WIDTH,
    )
    tl.store(
        target[:, None] + column[None, :],
        numbers.to(kind),
        mask=is_row[:, None] & is_column[None, :],
    )


@triton.jit(do_not_specialize=["rows"])
def gate(
    gated,
    up,
    out,  # (rows, WIDTH)
    gated_row,  # strides, in elements; those of a width are 1
    up_row,
    rows,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Multiply a part of some rows by its gates, which go through an activation function."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    is_in = (row < rows) & (column < WIDTH)
    kind: tl.constexpr = out.dtype.element_ty
    x = tl.load(gated + row * gated_row + column, mask=is_in, other=0.0).to(tl.float32)
    if ACTIVATION == "silu":
        x = x / (1.0 + tl.exp(-x))
    elif ACTIVATION == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:  # gelu by tanh, whose (1 + tanh(u)) / 2 is 1 / (1 + e^-2u)
        x = x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    factor = tl.load(up + row * up_row + column, mask=is_in, other=0.0).to(tl.float32)
    x = x.to(kind).to(tl.float32) * factor
    tl.store(out + row * WIDTH + column, x.to(kind), mask=is_in)
