"""The tree attention kernel in Triton: a program computes a tile of rows for one head of keys.

`tree_tables` says what the tables are. It runs on NVIDIA and AMD, and on CPU by Triton's
interpreter. A layer has one compiled kernel and there is one way through a step, whatever the batch
holds: a product and a sum may be fused in one build and not in another, and then have other bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

FAR = tl.constexpr(1 << 30)  # a position that no row sees


@triton.jit
def attend(
    query,
    key,
    value,
    kept_keys,
    kept_values,
    out,
    tiles,
    steps,
    slots,
    numbers,
    positions,
    scale,  # with log2(e): weights are powers of two
    cap,
    cap_scale,
    reach,  # how many tokens back, and forward, a window goes
    query_head,  # strides, in elements; those of a width are 1
    query_row,
    key_head,
    key_row,
    value_head,
    value_row,
    kept_key_slot,
    kept_key_head,
    kept_value_slot,
    kept_value_head,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,  # heads that share keys
    ROWS: tl.constexpr,  # of a tile: tokens times GROUP, filled up
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    WIDTH_FILLED: tl.constexpr,  # to a power of two
    VALUE_WIDTH_FILLED: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_CAP: tl.constexpr,
):
    """Attend a tile's rows to the keys of its steps, in the order of these."""
    tile = tl.program_id(0) // KV_HEADS
    head = (tl.program_id(0) % KV_HEADS).to(tl.int64)
    first_row = tl.load(tiles + tile * 4)
    row_count = tl.load(tiles + tile * 4 + 1)
    first_step = tl.load(tiles + tile * 4 + 2)
    last_step = tl.load(tiles + tile * 4 + 3)

    index = tl.arange(0, ROWS)
    is_row = index // GROUP < row_count
    row = (first_row + index // GROUP).to(tl.int64)
    query_heads = head * GROUP + index % GROUP
    number = tl.load(numbers + row, mask=is_row, other=-1)
    position = tl.load(positions + row, mask=is_row, other=0)
    column = tl.arange(0, WIDTH_FILLED)
    value_column = tl.arange(0, VALUE_WIDTH_FILLED)
    queries = tl.load(
        query + (query_heads * query_head + row * query_row)[:, None] + column[None, :],
        mask=is_row[:, None] & (column < WIDTH)[None, :],
        other=0.0,
    )
    if IS_CAUSAL:
        upto = position
    elif HAS_WINDOW:
        upto = position + reach
    else:
        upto = tl.full([ROWS], FAR - 1, tl.int32)

    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, VALUE_WIDTH_FILLED], tl.float32)
    for step in range(first_step, last_step):
        offset = tl.load(steps + step * 4)
        start = tl.load(steps + step * 4 + 1)
        lowest = tl.load(steps + step * 4 + 2)
        behind_highest = tl.load(steps + step * 4 + 3)
        slot = tl.load(slots + offset + tl.arange(0, KEYS)).to(tl.int64)
        is_key = slot != -1
        at = tl.where(is_key, slot, 0)
        kept = -2 - at
        key_at = tl.where(
            at < 0,
            kept_keys + head * kept_key_head + kept * kept_key_slot,
            key + head * key_head + at * key_row,
        )
        value_at = tl.where(
            at < 0,
            kept_values + head * kept_value_head + kept * kept_value_slot,
            value + head * value_head + at * value_row,
        )
        keys = tl.load(
            key_at[:, None] + column[None, :],
            mask=is_key[:, None] & (column < WIDTH)[None, :],
            other=0.0,
        )
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
        if HAS_CAP:
            size = tl.exp2(tl.abs(scores) * cap_scale)  # tanh's e to the -2|x|
            bent = cap * ((1.0 - size) / (1.0 + size))
            scores = tl.where(scores < 0.0, -bent, bent)
        else:
            scores = scores * scale

        place = tl.where(is_key, start + tl.arange(0, KEYS), FAR)
        limit = tl.where((number >= lowest) & (number < behind_highest), upto, -1)
        is_seen = place[None, :] <= limit[:, None]
        if HAS_WINDOW:
            is_seen = is_seen & (place[None, :] >= (position - reach)[:, None])
        scores = tl.where(is_seen, scores, float("-inf"))

        # A row that sees none of these keys keeps its bits: its factor is 1, its weights are 0, and
        # not even an infinite value of somebody else's reaches it.
        here = tl.max(scores, 1)
        higher = tl.maximum(top, here)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        factor = tl.where(higher == top, 1.0, tl.exp2(top - base))
        weights = tl.exp2(scores - base[:, None])
        total = total * factor + tl.sum(weights, 1)
        values = tl.load(
            value_at[:, None] + value_column[None, :],
            mask=is_key[:, None] & (value_column < VALUE_WIDTH)[None, :],
            other=0.0,
        )
        more = tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        more = tl.where((here > float("-inf"))[:, None], more, 0.0)
        mixed = mixed * factor[:, None] + more
        top = higher

    total = tl.where(total == 0.0, 1.0, total)  # of rows outside every run
    out_at = (row * (KV_HEADS * GROUP) + query_heads) * VALUE_WIDTH
    tl.store(
        out + out_at[:, None] + value_column[None, :],
        (mixed / total[:, None]).to(out.dtype.element_ty),
        mask=is_row[:, None] & (value_column < VALUE_WIDTH)[None, :],
    )
