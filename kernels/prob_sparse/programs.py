# ruff: noqa: ANN001, ANN201, ANN202, PLR0915 - Triton gives annotations of its own meaning; a kernel is one formula
"""The Triton kernels of ProbSparse attention.

Tensors of the caller come with their strides; (batch, head) indices are 64-bit, so large batches do not overflow.
Scores, softmax and sums are float32. Rows and head sizes beyond the tensors are masked at loads, so padding never
counts.
"""

from kernels.triton_support import load_triton

_loaded = load_triton()
triton, tl = _loaded.triton, _loaded.language

# BQ, BK, BU, BS, BD: blocks of queries, keys, sampled keys, selected queries, head size


@triton.jit
def measure_shared(
    Q, K, KEYS, M,
    sqb, sqh, sql, sqd, skb, skh, skl, skd,
    skeys, H, LQ, LK, D, U, inverse_divisor,
    BQ: tl.constexpr, BU: tl.constexpr, BD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """M = max_j q.k_j - sum_j q.k_j / divisor over one sample of keys for all queries."""
    pair = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BQ + tl.arange(0, BQ)
    d = tl.arange(0, BD)
    Q += pair // H * sqb + pair % H * sqh
    K += pair // H * skb + pair % H * skh
    q = tl.load(Q + rows[:, None] * sql + d[None, :] * sqd, mask=(rows < LQ)[:, None] & (d < D)[None, :], other=0.0)
    largest = tl.full([BQ], -float("inf"), tl.float32)
    total = tl.zeros([BQ], tl.float32)
    for first in range(0, U, BU):
        j = first + tl.arange(0, BU)
        index = tl.load(KEYS + j * skeys, mask=j < U, other=-1)
        known = (index >= 0) & (index < LK)
        k = tl.load(K + index[None, :] * skl + d[:, None] * skd, mask=known[None, :] & (d < D)[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION)  # [BQ, BU]
        largest = tl.maximum(largest, tl.max(tl.where((j < U)[None, :], scores, -float("inf")), 1))
        total += tl.sum(tl.where((j < U)[None, :], scores, 0.0), 1)
    tl.store(M + pair * LQ + rows, largest - total * inverse_divisor, mask=rows < LQ)


@triton.jit
def measure_independent(
    Q, K, KEYS, M,
    sqb, sqh, sql, sqd, skb, skh, skl, skd,
    skeysq, skeysu, H, LQ, LK, D, U, inverse_divisor,
    BQ: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Compute the measure of `measure_shared` over one sample of keys per query."""
    pair = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BQ + tl.arange(0, BQ)
    d = tl.arange(0, BD)
    Q += pair // H * sqb + pair % H * sqh
    K += pair // H * skb + pair % H * skh
    inside = (rows < LQ)[:, None] & (d < D)[None, :]
    q = tl.load(Q + rows[:, None] * sql + d[None, :] * sqd, mask=inside, other=0.0).to(tl.float32)
    largest = tl.full([BQ], -float("inf"), tl.float32)
    total = tl.zeros([BQ], tl.float32)
    for j in range(U):
        index = tl.load(KEYS + rows * skeysq + j * skeysu, mask=rows < LQ, other=-1)
        known = (index >= 0) & (index < LK)
        k = tl.load(K + index[:, None] * skl + d[None, :] * skd, mask=known[:, None] & (d < D)[None, :], other=0.0)
        scores = tl.sum(q * k.to(tl.float32), 1)
        largest = tl.maximum(largest, scores)
        total += scores
    tl.store(M + pair * LQ + rows, largest - total * inverse_divisor, mask=rows < LQ)


@triton.jit
def select_largest(M, TOP, LQ, count, BL: tl.constexpr):
    """Find the `count` largest values, lowest index among ties, NaN as -inf; store their indices ascending."""
    pair = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, BL)
    inside = row < LQ
    value = tl.load(M + pair * LQ + row, mask=inside, other=0.0)
    value = tl.where(value != value, -float("inf"), value)  # noqa: PLR0124 - the test for NaN
    value = tl.where(value == 0.0, 0.0, value)  # minus zero ties with zero
    bits = value.to(tl.int32, bitcast=True)
    # Unsigned integers in the order of the floats; no float maps to 0, which is left for the padding.
    code = tl.where(bits < 0, ~bits, bits ^ -2147483648).to(tl.uint32, bitcast=True)
    code = tl.where(inside, code, tl.zeros([BL], tl.uint32))
    # The count-th largest code, found bit by bit from the top.
    threshold = tl.zeros([1], tl.uint32)
    bit = tl.full([1], 2147483648, tl.uint32)
    for _ in range(32):
        trial = threshold | bit
        enough = tl.sum((code >= trial).to(tl.int32), 0) >= count
        threshold = tl.where(enough, trial, threshold)
        bit = bit >> 1
    above = code > threshold
    equal = inside & (code == threshold)
    wanted = count - tl.sum(above.to(tl.int32), 0)
    chosen = above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= wanted))
    place = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(TOP + pair * count + place, row.to(tl.int64), mask=chosen)


@triton.jit
def _is_selected(rows, top, mask):
    """Whether each of `rows` [R] is among the selected `top` [S]."""
    return tl.max(((rows[:, None] == top[None, :]) & mask[None, :]).to(tl.int32), 1) > 0


@triton.jit
def attend_split(
    Q, K, V, TOP, ACC, MAX, TOTAL, SUMS,
    sqb, sqh, sql, sqd, skb, skh, skl, skd, svb, svh, svl, svd,
    H, LK, D, count, splits, blocks_per_split, blocks, scale,
    BD: tl.constexpr, BS: tl.constexpr, BK: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend to one split of the keys: unnormalised output, maximum and total of each selected query.

    SUMS takes the split's sum of values, or where causal the running sum inside the split after each block.
    """
    pair = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    s, d = tl.arange(0, BS), tl.arange(0, BD)
    K += pair // H * skb + pair % H * skh
    V += pair // H * svb + pair % H * svh
    top = tl.load(TOP + pair * count + s, mask=s < count, other=0)
    wanted = (s < count)[:, None] & (d < D)[None, :]
    Q += pair // H * sqb + pair % H * sqh
    q = tl.load(Q + top[:, None] * sql + d[None, :] * sqd, mask=wanted, other=0.0)
    largest = tl.full([BS], -float("inf"), tl.float32)
    total = tl.zeros([BS], tl.float32)
    acc = tl.zeros([BS, BD], tl.float32)
    running = tl.zeros([BD], tl.float32)
    for step in range(blocks_per_split):
        block = split * blocks_per_split + step
        j = block * BK + tl.arange(0, BK)
        k = tl.load(K + j[None, :] * skl + d[:, None] * skd, mask=(j < LK)[None, :] & (d < D)[:, None], other=0.0)
        v = tl.load(V + j[:, None] * svl + d[None, :] * svd, mask=(j < LK)[:, None] & (d < D)[None, :], other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * (
            scale * 1.4426950408889634
        )  # log2 e: exp2 is one instruction
        allowed = (j < LK)[None, :] & (s < BS)[:, None]
        if CAUSAL:
            allowed = allowed & (j[None, :] <= top[:, None])
        scores = tl.where(allowed, scores, -float("inf"))
        new = tl.maximum(largest, tl.max(scores, 1))
        base = tl.where(new == -float("inf"), 0.0, new)  # a query that sees nothing here yet
        p = tl.exp2(scores - base[:, None])
        kept = tl.exp2(largest - base)
        total = total * kept + tl.sum(p, 1)
        acc = acc * kept[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        largest = new
        running += tl.sum(v.to(tl.float32), 0)
        if CAUSAL:
            tl.store(SUMS + (pair * blocks + block) * D + d, running, mask=(d < D) & (block * BK + d * 0 < LK))
    if not CAUSAL:
        tl.store(SUMS + (pair * splits + split) * D + d, running, mask=d < D)
    part = (pair * splits + split) * count + s
    tl.store(ACC + part[:, None] * D + d[None, :], acc, mask=wanted)
    tl.store(MAX + part, largest, mask=s < count)
    tl.store(TOTAL + part, total, mask=s < count)


@triton.jit
def finish_forward(
    V, TOP, ACC, MAX, TOTAL, SUMS, OUT, LSE,
    svb, svh, svl, svd,
    H, LQ, LK, D, count, splits, blocks_per_split, blocks,
    BD: tl.constexpr, BS: tl.constexpr, BK: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Add the splits in index order: a pair's last program writes selected rows, the others a block's other rows."""
    pair = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    s, d = tl.arange(0, BS), tl.arange(0, BD)
    top = tl.load(TOP + pair * count + s, mask=s < count, other=0)
    OUT += pair * LQ * D
    if block * BK >= LQ:
        wanted = (s < count)[:, None] & (d < D)[None, :]
        largest = tl.full([BS], -float("inf"), tl.float32)
        for split in range(splits):
            part = (pair * splits + split) * count + s
            largest = tl.maximum(largest, tl.load(MAX + part, mask=s < count, other=0.0))
        base = tl.where(largest == -float("inf"), 0.0, largest)
        total = tl.zeros([BS], tl.float32)
        acc = tl.zeros([BS, BD], tl.float32)
        for split in range(splits):
            part = (pair * splits + split) * count + s
            weight = tl.exp2(tl.load(MAX + part, mask=s < count, other=0.0) - base)
            total += tl.load(TOTAL + part, mask=s < count, other=1.0) * weight
            acc += tl.load(ACC + part[:, None] * D + d[None, :], mask=wanted, other=0.0) * weight[:, None]
        out = acc / total[:, None]
        tl.store(OUT + top[:, None] * D + d[None, :], out.to(OUT.dtype.element_ty), mask=wanted)
        tl.store(LSE + pair * count + s, (largest + tl.log2(total)) * 0.6931471805599453, mask=s < count)
    else:
        rows = block * BK + tl.arange(0, BK)
        context = tl.zeros([BD], tl.float32)
        if CAUSAL:
            # Whole splits before this block, then the blocks before it in its own split, then its own rows.
            for split in range(splits):
                last = (split + 1) * blocks_per_split - 1
                before = (d < D) & (d * 0 + last < block)
                context += tl.load(SUMS + (pair * blocks + last) * D + d, mask=before, other=0.0)
            inside = (d < D) & (d * 0 + block % blocks_per_split > 0)
            context += tl.load(SUMS + (pair * blocks + block - 1) * D + d, mask=inside, other=0.0)
            V += pair // H * svb + pair % H * svh
            known = (rows < LK)[:, None] & (d < D)[None, :]
            v = tl.load(V + rows[:, None] * svl + d[None, :] * svd, mask=known, other=0.0)
            tile = tl.cumsum(v.to(tl.float32), 0) + context[None, :]
        else:
            for split in range(splits):
                context += tl.load(SUMS + (pair * splits + split) * D + d, mask=d < D, other=0.0)
            tile = tl.zeros([BK, BD], tl.float32) + (context / LK)[None, :]
        other = (rows < LQ) & (_is_selected(rows, top, s < count) == 0)
        where = OUT + rows[:, None] * D + d[None, :]
        tl.store(where, tile.to(OUT.dtype.element_ty), mask=other[:, None] & (d < D)[None, :])


@triton.jit
def sum_unselected(
    GRAD, TOP, SUMS,
    sgb, sgh, sgl, sgd,
    H, LQ, D, count, splits, blocks_per_split, blocks,
    BD: tl.constexpr, BS: tl.constexpr, BK: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Sum the upstream gradient of unselected rows over a split; where causal, running from its end to each block."""
    pair = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    s, d = tl.arange(0, BS), tl.arange(0, BD)
    top = tl.load(TOP + pair * count + s, mask=s < count, other=0)
    GRAD += pair // H * sgb + pair % H * sgh
    running = tl.zeros([BD], tl.float32)
    for step in range(blocks_per_split):
        block = (split + 1) * blocks_per_split - 1 - step
        rows = block * BK + tl.arange(0, BK)
        other = (rows < LQ) & (_is_selected(rows, top, s < count) == 0)
        mask = other[:, None] & (d < D)[None, :]
        running += tl.sum(
            tl.load(GRAD + rows[:, None] * sgl + d[None, :] * sgd, mask=mask, other=0.0).to(tl.float32), 0
        )
        if CAUSAL:
            tl.store(SUMS + (pair * blocks + block) * D + d, running, mask=(d < D) & (d * 0 + block < blocks))
    if not CAUSAL:
        tl.store(SUMS + (pair * splits + split) * D + d, running, mask=d < D)


@triton.jit
def differentiate_split(
    Q, K, V, OUT, GRAD, TOP, LSE, SUMS, DQ, DK, DV,
    sqb, sqh, sql, sqd, skb, skh, skl, skd, svb, svh, svl, svd, sob, soh, sol, sod, sgb, sgh, sgl, sgd,
    H, LK, D, count, splits, query_splits, blocks_per_split, blocks, scale,
    BD: tl.constexpr, BS: tl.constexpr, BK: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One pass over a split of keys and values: their gradients, and the split's part of the queries' gradient."""
    pair = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    batch, head = pair // H, pair % H
    s, d = tl.arange(0, BS), tl.arange(0, BD)
    wanted = (s < count)[:, None] & (d < D)[None, :]
    top = tl.load(TOP + pair * count + s, mask=s < count, other=0)
    K += batch * skb + head * skh
    V += batch * svb + head * svh
    GRAD += batch * sgb + head * sgh
    q = tl.load(Q + batch * sqb + head * sqh + top[:, None] * sql + d[None, :] * sqd, mask=wanted, other=0.0)
    o = tl.load(OUT + batch * sob + head * soh + top[:, None] * sol + d[None, :] * sod, mask=wanted, other=0.0)
    g = tl.load(GRAD + top[:, None] * sgl + d[None, :] * sgd, mask=wanted, other=0.0)
    lse = tl.load(LSE + pair * count + s, mask=s < count, other=0.0) * 1.4426950408889634
    drop = tl.sum(o.to(tl.float32) * g.to(tl.float32), 1)  # [BS], dO . O
    context = tl.zeros([BD], tl.float32)
    if CAUSAL:
        for later in range(query_splits):
            after = (d < D) & (d * 0 + later > split)
            context += tl.load(SUMS + (pair * blocks + later * blocks_per_split) * D + d, mask=after, other=0.0)
    else:
        for part in range(query_splits):
            context += tl.load(SUMS + (pair * query_splits + part) * D + d, mask=d < D, other=0.0)
        context = context / LK
    dq = tl.zeros([BS, BD], tl.float32)
    for step in range(blocks_per_split):
        block = split * blocks_per_split + step
        j = block * BK + tl.arange(0, BK)
        inside = (j < LK)[:, None] & (d < D)[None, :]
        k = tl.load(K + j[:, None] * skl + d[None, :] * skd, mask=inside, other=0.0)  # [BK, BD]
        v = tl.load(V + j[:, None] * svl + d[None, :] * svd, mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * 1.4426950408889634)
        allowed = (s < count)[:, None] & (j < LK)[None, :]
        if CAUSAL:
            allowed = allowed & (j[None, :] <= top[:, None])
        p = tl.where(allowed, tl.exp2(scores - lse[:, None]), 0.0)  # [BS, BK]
        dv = tl.dot(tl.trans(p.to(g.dtype)), g, input_precision=PRECISION)
        if CAUSAL:
            other = (j < LK) & (_is_selected(j, top, s < count) == 0)
            mask = other[:, None] & (d < D)[None, :]
            rows = tl.load(GRAD + j[:, None] * sgl + d[None, :] * sgd, mask=mask, other=0.0).to(tl.float32)
            following = (d < D) & (d * 0 + step + 1 < blocks_per_split) & (d * 0 + block + 1 < blocks)
            rest = context + tl.load(SUMS + (pair * blocks + block + 1) * D + d, mask=following, other=0.0)
            dv += tl.cumsum(rows, 0, reverse=True) + rest[None, :]
        else:
            dv += context[None, :]
        slope = tl.dot(g, tl.trans(v), input_precision=PRECISION)  # [BS, BK]
        slope = (p * (slope - drop[:, None]) * scale).to(q.dtype)
        dk = tl.dot(tl.trans(slope), q, input_precision=PRECISION)
        dq = tl.dot(slope, k, dq, input_precision=PRECISION)
        where = (pair * LK + j)[:, None] * D + d[None, :]
        tl.store(DK + where, dk.to(DK.dtype.element_ty), mask=inside)
        tl.store(DV + where, dv.to(DV.dtype.element_ty), mask=inside)
    part = (pair * splits + split) * count + s
    tl.store(DQ + part[:, None] * D + d[None, :], dq, mask=wanted)


@triton.jit
def finish_query_gradient(
    TOP, PARTS, DQ, LQ, D, count, splits, BD: tl.constexpr, BS: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """Add the splits in index order for selected rows (last program of a pair); zero for the other rows."""
    pair = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    s, d = tl.arange(0, BS), tl.arange(0, BD)
    top = tl.load(TOP + pair * count + s, mask=s < count, other=0)
    DQ += pair * LQ * D
    if block * BK >= LQ:
        wanted = (s < count)[:, None] & (d < D)[None, :]
        dq = tl.zeros([BS, BD], tl.float32)
        for split in range(splits):
            part = (pair * splits + split) * count + s
            dq += tl.load(PARTS + part[:, None] * D + d[None, :], mask=wanted, other=0.0)
        tl.store(DQ + top[:, None] * D + d[None, :], dq.to(DQ.dtype.element_ty), mask=wanted)
    else:
        rows = block * BK + tl.arange(0, BK)
        other = (rows < LQ) & (_is_selected(rows, top, s < count) == 0)
        zero = tl.zeros([BK, BD], DQ.dtype.element_ty)
        tl.store(DQ + rows[:, None] * D + d[None, :], zero, mask=other[:, None] & (d < D)[None, :])
