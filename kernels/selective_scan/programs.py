# ruff: noqa: ANN001, ANN201, ANN202, RUF005, SIM102, PLR0912, PLR0915, C901 - Triton compiles a part of Python
"""The Triton kernels of the selective scan: one program scans a block of channels of one batch row and direction.

The state h [N, BD] stays in registers with channels on lanes, so sums over states need no exchange; a program is one
warp. The second direction reads time backwards. Time-varying tensors have channels (or states) innermost in memory.
"""

from kernels.triton_support import load_triton

_loaded = load_triton()
triton, tl = _loaded.triton, _loaded.language

# G directions, B batch, D channels, N states, L steps; BN, BD blocks of states and channels, T steps loaded at once


@triton.jit
def _softplus(x):
    # log(1 + e) loses a small e; this form of log1p keeps it (and needs no library call the interpreter lacks).
    e = tl.exp(tl.minimum(x, 20.0))
    one = 1.0 + e
    small = tl.where(one == 1.0, e, tl.log(one) * (e / tl.where(one == 1.0, 1.0, one - 1.0)))
    return tl.where(x > 20.0, x, small)


@triton.jit(do_not_specialize=["zero"])
def scan_forward(
    U, DELTA, A, B, C, SKIP, Z, BIAS, OUT, LAST, STATES,
    sug, sub, sul, sdg, sdb, sdl, sbg, sbb, sbl, scg, scb, scl, szg, szb, szl,
    batch, D, L, zero,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, T: tl.constexpr, KEPT: tl.constexpr,
    HAS_SKIP: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    B_VARIES: tl.constexpr, C_VARIES: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """Scan forward; OUT [G, B, L, D], LAST [G, B, N, D], STATES [kept, G, B, N, D] before steps 0, KEPT, 2 KEPT, ..."""
    g = tl.program_id(1).to(tl.int64)
    row = (tl.program_id(0) // tl.cdiv(D, BD)).to(tl.int64)
    d = tl.program_id(0) % tl.cdiv(D, BD) * BD + tl.arange(0, BD)
    n = tl.arange(0, BN)
    inside = (n < N)[:, None] & (d < D)[None, :]
    # Adding `zero` hides the alignment from the compiler. If it sees 16 bytes, it gives each lane four neighbouring
    # channels to store at once and spreads the states over lanes: every sum over states becomes shuffles.
    tile = n[:, None] * D + d[None, :] + zero
    U += g * sug + row * sub
    DELTA += g * sdg + row * sdb
    if B_VARIES:
        B += g * sbg + row * sbb
    else:
        fixed_b = tl.load(B + g * N * D + tile, mask=inside, other=0.0).to(tl.float32)
    if C_VARIES:
        C += g * scg + row * scb
    else:
        fixed_c = tl.load(C + g * N * D + tile, mask=inside, other=0.0).to(tl.float32)
    OUT += (g * batch + row) * L * D
    if HAS_Z:
        Z += g * szg + row * szb
    # log2 e goes into A once: exp2 is one instruction.
    rate = tl.load(A + g * N * D + tile, mask=inside, other=0.0).to(tl.float32) * 1.4426950408889634
    if HAS_SKIP:
        skip = tl.load(SKIP + g * D + d, mask=d < D, other=0.0).to(tl.float32)
    if HAS_BIAS:
        bias = tl.load(BIAS + g * D + d, mask=d < D, other=0.0).to(tl.float32)
    h = tl.zeros([BN, BD], tl.float32)
    for first in range(0, L, T):
        if SAVE:
            if first % KEPT == 0:
                where = ((first // KEPT * tl.num_programs(1) + g) * batch + row) * N
                tl.store(STATES + where * D + tile, h, mask=inside)
        us, deltas, bs, cs, zs = (), (), (), (), ()
        for i in tl.static_range(T):
            t = tl.where(g == 1, L - 1 - (first + i), first + i).to(tl.int64)
            md = (d < D) & (d * 0 + first + i < L)
            mn = (n < N) & (n * 0 + first + i < L)
            us = us + (tl.load(U + t * sul + d, mask=md, other=0.0),)
            deltas = deltas + (tl.load(DELTA + t * sdl + d, mask=md, other=0.0),)
            if B_VARIES:
                bs = bs + (tl.load(B + t * sbl + n, mask=mn, other=0.0),)
            if C_VARIES:
                cs = cs + (tl.load(C + t * scl + n, mask=mn, other=0.0),)
            if HAS_Z:
                zs = zs + (tl.load(Z + t * szl + d, mask=md, other=0.0),)
        for i in tl.static_range(T):
            t = tl.where(g == 1, L - 1 - (first + i), first + i).to(tl.int64)
            md = (d < D) & (d * 0 + first + i < L)
            # Widened only here: four steps of b and c fill the registers otherwise.
            u = us[i].to(tl.float32)
            b = bs[i].to(tl.float32)[:, None] if B_VARIES else fixed_b
            c = cs[i].to(tl.float32)[:, None] if C_VARIES else fixed_c
            delta = deltas[i].to(tl.float32)
            if HAS_BIAS:
                delta += bias
            if SOFTPLUS:
                delta = _softplus(delta)
            delta = tl.where(md, delta, 0.0)  # a step past the end must not change the state
            h = tl.exp2(delta[None, :] * rate) * h + (delta * u)[None, :] * b
            y = tl.sum(h * c, 0)
            if HAS_SKIP:
                y += u * skip
            if HAS_Z:
                z = zs[i].to(tl.float32)
                y = y * z * tl.sigmoid(z)
            tl.store(OUT + t * D + d, y.to(OUT.dtype.element_ty), mask=md)
    tl.store(LAST + (g * batch + row) * N * D + tile, h, mask=inside)


@triton.jit
def _joined(a, x, later_a, later_x):
    """Combine two runs of steps: the factor of the state before them, and their addition to it."""
    return a * later_a, later_a * x + later_x


@triton.jit
def scan_forward_tile(
    U, DELTA, A, B, C, SKIP, Z, BIAS, OUT, LAST, STATES,
    sug, sub, sul, sdg, sdb, sdl, sbg, sbb, sbl, scg, scb, scl, szg, szb, szl,
    batch, D, L,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, T: tl.constexpr,
    HAS_SKIP: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    B_VARIES: tl.constexpr, C_VARIES: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """As `scan_forward`, but T = KEPT steps at once, as a prefix over a tile [T, BN, BD]: for too few channels."""
    g = tl.program_id(1).to(tl.int64)
    row = (tl.program_id(0) // tl.cdiv(D, BD)).to(tl.int64)
    d = tl.program_id(0) % tl.cdiv(D, BD) * BD + tl.arange(0, BD)
    n = tl.arange(0, BN)
    i = tl.arange(0, T)
    inside = (n < N)[:, None] & (d < D)[None, :]
    tile = n[:, None] * D + d[None, :]
    rate = tl.load(A + g * N * D + tile, mask=inside, other=0.0).to(tl.float32) * 1.4426950408889634
    h = tl.zeros([BN, BD], tl.float32)
    for first in range(0, L, T):
        if SAVE:
            where = ((first // T * tl.num_programs(1) + g) * batch + row) * N
            tl.store(STATES + where * D + tile, h, mask=inside)
        t = tl.where(g == 1, L - 1 - first - i, first + i).to(tl.int64)[:, None]
        md = (d < D)[None, :] & (first + i < L)[:, None]
        mn = (n < N)[None, :] & (first + i < L)[:, None]
        u = tl.load(U + g * sug + row * sub + t * sul + d[None, :], mask=md, other=0.0).to(tl.float32)
        delta = tl.load(DELTA + g * sdg + row * sdb + t * sdl + d[None, :], mask=md, other=0.0).to(tl.float32)
        if HAS_BIAS:
            delta += tl.load(BIAS + g * D + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
        if SOFTPLUS:
            delta = _softplus(delta)
        delta = tl.where(md, delta, 0.0)  # a step past the end must not change the state
        if B_VARIES:
            b = tl.load(B + g * sbg + row * sbb + t * sbl + n[None, :], mask=mn, other=0.0).to(tl.float32)[:, :, None]
        else:
            b = tl.load(B + g * N * D + tile, mask=inside, other=0.0).to(tl.float32)[None, :, :]
        if C_VARIES:
            c = tl.load(C + g * scg + row * scb + t * scl + n[None, :], mask=mn, other=0.0).to(tl.float32)[:, :, None]
        else:
            c = tl.load(C + g * N * D + tile, mask=inside, other=0.0).to(tl.float32)[None, :, :]
        decay = tl.exp2(delta[:, None, :] * rate[None, :, :])
        decay, added = tl.associative_scan((decay, (delta * u)[:, None, :] * b), 0, _joined)
        states = decay * h[None, :, :] + added
        h = tl.sum(tl.where((i == T - 1)[:, None, None], states, 0.0), 0)
        y = tl.sum(states * c, 1)
        if HAS_SKIP:
            y += u * tl.load(SKIP + g * D + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
        if HAS_Z:
            z = tl.load(Z + g * szg + row * szb + t * szl + d[None, :], mask=md, other=0.0).to(tl.float32)
            y = y * z * tl.sigmoid(z)
        tl.store(OUT + (g * batch + row) * L * D + t * D + d[None, :], y.to(OUT.dtype.element_ty), mask=md)
    tl.store(LAST + (g * batch + row) * N * D + tile, h, mask=inside)


@triton.jit
def _advanced(
    h, U, DELTA, B, fixed_b, sul, sdl, sbl, step, g, L, d, D, n, N: tl.constexpr, rate, bias,
    SOFTPLUS: tl.constexpr, B_VARIES: tl.constexpr,
):  # fmt: skip
    """Advance the state by one step; backward needs nothing else of the forward pass."""
    t = tl.where(g == 1, L - 1 - step, step).to(tl.int64)
    md = (d < D) & (d * 0 + step < L)
    u = tl.load(U + t * sul + d, mask=md, other=0.0).to(tl.float32)
    delta = tl.load(DELTA + t * sdl + d, mask=md, other=0.0).to(tl.float32) + bias
    if SOFTPLUS:
        delta = _softplus(delta)
    delta = tl.where(md, delta, 0.0)
    b = fixed_b
    if B_VARIES:
        b = tl.load(B + t * sbl + n, mask=(n < N) & (n * 0 + step < L), other=0.0).to(tl.float32)[:, None]
    return tl.exp2(delta[None, :] * rate) * h + (delta * u)[None, :] * b


@triton.jit(do_not_specialize=["zero"])
def scan_backward(
    U, DELTA, A, B, C, SKIP, Z, BIAS, GRAD, GRAD_LAST, STATES,
    DU, DDELTA, DA, DB, DC, DSKIP, DZ, DBIAS,
    sug, sub, sul, sdg, sdb, sdl, sbg, sbb, sbl, scg, scb, scl, szg, szb, szl, sgg, sgb, sgl,
    batch, D, L, zero,
    N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, T: tl.constexpr, KEPT: tl.constexpr,
    HAS_SKIP: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    B_VARIES: tl.constexpr, C_VARIES: tl.constexpr,
):  # fmt: skip
    """Scan backward, T steps at a time from the kept state before them; DU, DDELTA, DZ [G, B, L, D].

    Sums over other axes are written as partial sums: DA [G, B, N, D], DSKIP and DBIAS [G, B, D] over the batch, DB and
    DC [blocks of D, G, B, L, N] over the channels; those of a B or C that does not depend on time are as DA.
    """
    g = tl.program_id(1).to(tl.int64)
    block = tl.program_id(0) % tl.cdiv(D, BD)
    row = (tl.program_id(0) // tl.cdiv(D, BD)).to(tl.int64)
    d = block * BD + tl.arange(0, BD)
    n = tl.arange(0, BN)
    inside = (n < N)[:, None] & (d < D)[None, :]
    # Adding `zero` hides the alignment from the compiler. If it sees 16 bytes, it gives each lane four neighbouring
    # channels to store at once and spreads the states over lanes: every sum over states becomes shuffles.
    tile = n[:, None] * D + d[None, :] + zero
    lane = g * batch + row
    U += g * sug + row * sub
    DELTA += g * sdg + row * sdb
    GRAD += g * sgg + row * sgb
    DU += lane * L * D
    DDELTA += lane * L * D
    if HAS_Z:
        Z += g * szg + row * szb
        DZ += lane * L * D
    parts = (block.to(tl.int64) * tl.num_programs(1) * batch + lane) * L * N
    rate = tl.load(A + g * N * D + tile, mask=inside, other=0.0).to(tl.float32) * 1.4426950408889634
    fixed_b, fixed_c = rate, rate  # read only where they do not depend on time
    if B_VARIES:
        B += g * sbg + row * sbb
    else:
        fixed_b = tl.load(B + g * N * D + tile, mask=inside, other=0.0).to(tl.float32)
    if C_VARIES:
        C += g * scg + row * scb
    else:
        fixed_c = tl.load(C + g * N * D + tile, mask=inside, other=0.0).to(tl.float32)
    skip = tl.zeros([BD], tl.float32)
    if HAS_SKIP:
        skip = tl.load(SKIP + g * D + d, mask=d < D, other=0.0).to(tl.float32)
    bias = tl.zeros([BD], tl.float32)
    if HAS_BIAS:
        bias = tl.load(BIAS + g * D + d, mask=d < D, other=0.0).to(tl.float32)
    gh = tl.load(GRAD_LAST + lane * N * D + tile, mask=inside, other=0.0)  # gradient of the state
    da = tl.zeros([BN, BD], tl.float32)
    if not B_VARIES:
        db = tl.zeros([BN, BD], tl.float32)
    if not C_VARIES:
        dc = tl.zeros([BN, BD], tl.float32)
    dskip = tl.zeros([BD], tl.float32)
    dbias = tl.zeros([BD], tl.float32)
    for back in range(tl.cdiv(L, T)):
        first = (tl.cdiv(L, T) - 1 - back) * T
        kept = first // KEPT
        where = (kept.to(tl.int64) * tl.num_programs(1) * batch + lane) * N
        h = tl.load(STATES + where * D + tile, mask=inside, other=0.0)
        for step in range(kept * KEPT, first):
            h = _advanced(
                h, U, DELTA, B, fixed_b, sul, sdl, sbl, step, g, L, d, D, n, N, rate, bias, SOFTPLUS, B_VARIES
            )
        before = ()  # the state before each of these T steps
        for i in tl.static_range(T):
            before = before + (h,)
            h = _advanced(
                h, U, DELTA, B, fixed_b, sul, sdl, sbl, first + i, g, L, d, D, n, N, rate, bias, SOFTPLUS, B_VARIES
            )
        for j in tl.static_range(T):
            step = first + (T - 1 - j)
            t = tl.where(g == 1, L - 1 - step, step).to(tl.int64)
            md = (d < D) & (d * 0 + step < L)
            mn = (n < N) & (n * 0 + step < L)
            u = tl.load(U + t * sul + d, mask=md, other=0.0).to(tl.float32)
            raw = tl.load(DELTA + t * sdl + d, mask=md, other=0.0).to(tl.float32) + bias
            delta = raw
            if SOFTPLUS:
                delta = _softplus(raw)
            delta = tl.where(md, delta, 0.0)
            b = fixed_b
            if B_VARIES:
                b = tl.load(B + t * sbl + n, mask=mn, other=0.0).to(tl.float32)[:, None]
            c = fixed_c
            if C_VARIES:
                c = tl.load(C + t * scl + n, mask=mn, other=0.0).to(tl.float32)[:, None]
            dy = tl.load(GRAD + t * sgl + d, mask=md, other=0.0).to(tl.float32)
            decay = tl.exp2(delta[None, :] * rate)
            carried = decay * before[T - 1 - j]
            h = carried + (delta * u)[None, :] * b
            if HAS_Z:
                z = tl.load(Z + t * szl + d, mask=md, other=0.0).to(tl.float32)
                gate = tl.sigmoid(z)
                y = tl.sum(h * c, 0) + u * skip
                dz = dy * y * gate * (1.0 + z * (1.0 - gate))
                tl.store(DZ + t * D + d, dz.to(DZ.dtype.element_ty), mask=md)
                dy = dy * z * gate
            gh += dy[None, :] * c
            if C_VARIES:
                tl.store(DC + parts + t * N + n, tl.sum(h * dy[None, :], 1), mask=mn)
            else:
                dc += h * dy[None, :]
            if B_VARIES:
                tl.store(DB + parts + t * N + n, tl.sum(gh * (delta * u)[None, :], 1), mask=mn)
            else:
                db += gh * (delta * u)[None, :]
            into_inflow = tl.sum(gh * b, 0)
            through = gh * carried  # a h_(t-1) times the state's gradient, without a division
            da += through * delta[None, :]
            ddelta = tl.sum(through * rate, 0) * 0.6931471805599453 + into_inflow * u
            if SOFTPLUS:
                ddelta = ddelta * tl.sigmoid(raw)
            dbias += tl.where(md, ddelta, 0.0)
            dskip += dy * u
            du = into_inflow * delta + dy * skip
            tl.store(DU + t * D + d, du.to(DU.dtype.element_ty), mask=md)
            tl.store(DDELTA + t * D + d, ddelta.to(DDELTA.dtype.element_ty), mask=md)
            gh = gh * decay
    tl.store(DA + lane * N * D + tile, da, mask=inside)
    if not B_VARIES:
        tl.store(DB + lane * N * D + tile, db, mask=inside)
    if not C_VARIES:
        tl.store(DC + lane * N * D + tile, dc, mask=inside)
    if HAS_SKIP:
        tl.store(DSKIP + lane * D + d, dskip, mask=d < D)
    if HAS_BIAS:
        tl.store(DBIAS + lane * D + d, dbias, mask=d < D)
