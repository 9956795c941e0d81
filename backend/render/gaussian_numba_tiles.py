"""Numba kernels that blend the Gaussians of a tile front to back, and the backward pass of that.

3D Gaussian Splatting (arXiv 2308.04079) section 6, equation 3. A tile of 16 x 16 pixels is made of 32 blocks of 4 x 2;
a block's eight pixels are one vector. Each Gaussian goes over just the blocks that its ellipse touches and that still
take light: both are sets of 32 bits, so that what is hidden, or beside the ellipse, costs nothing.

A pixel that has stopped (its transmittance would fall to 1e-4) keeps its transmittance with a minus sign: the test
"transmittance after this Gaussian > 1e-4" then fails by itself from there on. A Gaussian that is skipped has alpha 0.

The last channel may be a depth. depth_mode 0: none. 1: the Gaussian's depth. 2: a value that is affine over the image,
planes [N, 5] = value at the mean, slope in x, slope in y, least, greatest; a further channel after it then holds the
value of the Gaussian that brings the transmittance below one half (the median).
"""

from __future__ import annotations

import math

import numpy as np

from backend.render.gaussian_numba_bins import TILE
from backend.render.gaussian_numba_unproject import GRADIENT
from backend.render.gaussian_numba_vectors import (
    LANES,
    bits,
    load,
    lowest_bit,
    maximum,
    minimum,
    minus_magnitude,
    power_of_two,
    splat,
    square_root,
    store,
    total,
    totals,
    where,
)
from backend.render.parallel import inlined, kernel

_LEAST = np.float32(-math.log2(255.0))  # logarithm of the least alpha that counts
_MOST = np.float32(math.log2(0.999))  # and of the greatest
_STOP = np.float32(1e-4)
_ONE = np.float32(1.0)
_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)
_LOG2_E = np.float32(1.4426950408889634)
_WIDE, _HIGH = 4, 2  # pixels of a block
_COLUMNS, _ROWS = TILE // _WIDE, TILE // _HIGH  # blocks of a tile; the block in column c and row r has the bit 8 c + r
_BLOCKS = _COLUMNS * _ROWS
_QUICK = 3  # channels whose sums are written out; further ones take a loop
_BATCH = 16  # Gaussians fetched together: the misses of the cache fall together, too
_NUMBERS = 6  # of a fetched Gaussian before its channels: minus mean, quadratic form and opacity as powers of two


@inlined
def _open_tile(state, stride, lines, columns):
    """Lay out the blocks: pixel centres x and y, transmittance 1 inside the picture (stopped outside), then zeros.

    Gives back the set of blocks that have a pixel of the picture.
    """
    going = np.int64(0)
    for block in range(_BLOCKS):
        at = block * stride
        for lane in range(LANES):
            x, y = block // _ROWS * _WIDE + lane % _WIDE, block % _ROWS * _HIGH + lane // _WIDE
            inside = x < columns and y < lines
            state[at + lane] = np.float32(x) + _HALF
            state[at + LANES + lane] = np.float32(y) + _HALF
            state[at + 2 * LANES + lane] = _ONE if inside else -_ONE
            going |= np.int64(inside) << block
        for i in range(3 * LANES, stride):
            state[at + i] = _ZERO
    return going


@inlined
def _touched(mx, my, a, b, d, rx, ry, edge, row_tops):
    """The set of a tile's blocks that the Gaussian's ellipse may touch, with a margin of a fiftieth of a pixel.

    mx, my: from the tile's corner. All block rows side by side: in each the ellipse reaches from `left` to `right`.
    """
    # Where the ellipse is widest to the right: dy = -b rx / d, but d may have rounded to nothing. To the left mirrored.
    widest = splat(min(ry, max(-ry, -b * rx / max(d, np.float32(1e-30)))))
    margin = np.float32(0.02) + np.float32(1e-6) * (abs(mx) + rx)
    slope = splat(-b / max(a, np.float32(1e-30)))
    half = splat(math.sqrt(np.float32(2.0) * edge / max(a, np.float32(1e-30))))
    zero, one, steepness = splat(_ZERO), splat(_ONE), splat(_ONE / ry)
    reach = splat(ry + np.float32(0.02))
    low = maximum(load(row_tops, 0) - splat(my + np.float32(0.02)), zero - reach)
    high = minimum(load(row_tops, LANES) - splat(my - np.float32(0.02)), reach)
    y = minimum(maximum(widest, low), high)
    t = y * steepness
    right = slope * y + half * square_root(maximum(one - t * t, zero)) + splat(mx + margin)
    y = minimum(maximum(zero - widest, low), high)
    t = y * steepness
    left = slope * y - half * square_root(maximum(one - t * t, zero)) + splat(mx - margin)
    right = where(high >= low, right, splat(np.float32(-1.0)))
    touched = np.int64(0)
    for column in range(_COLUMNS):
        near, far = splat(np.float32(_WIDE * column) + _HALF), splat(np.float32(_WIDE * (column + 1)) - _HALF)
        touched |= bits((right >= near) & (far >= left)) << (_ROWS * column)
    return touched


@inlined
def _fetch(records, colors, with_depth, ids, begin, end, left, top, going, row_tops, numbers, sets, sources):
    """Bring those of the Gaussians ids[begin:end] together that touch blocks of the set `going`; how many they are.

    numbers [batch, 6 + channels], sets [batch] of blocks, sources [batch] into ids.
    """
    count = 0
    for k in range(begin, end):
        n = ids[k]
        mx, my = records[n, 0] - np.float32(left), records[n, 1] - np.float32(top)
        a, b, d, edge = records[n, 2], records[n, 3], records[n, 4], records[n, 9]
        touched = going & _touched(mx, my, a, b, d, records[n, 7], records[n, 8], edge, row_tops)
        if touched == 0:
            continue
        sets[count] = touched
        sources[count] = k
        numbers[count, 0] = -mx
        numbers[count, 1] = -my
        numbers[count, 2] = (_HALF * _LOG2_E) * a
        numbers[count, 3] = _LOG2_E * b
        numbers[count, 4] = (_HALF * _LOG2_E) * d
        numbers[count, 5] = _LOG2_E * edge + _LEAST
        for channel in range(colors.shape[1]):
            numbers[count, _NUMBERS + channel] = colors[n, channel]
        if with_depth:
            numbers[count, _NUMBERS + colors.shape[1]] = records[n, 6]
        count += 1
    return count


@inlined
def _row_tops():
    """For each row of blocks the y of its first and of its last pixel centre."""
    tops = np.empty(2 * LANES, np.float32)
    for row in range(_ROWS):
        tops[row] = np.float32(_HIGH * row) + _HALF
        tops[LANES + row] = np.float32(_HIGH * (row + 1)) - _HALF
    return tops


@kernel
def blend_tiles(
    records, colors, planes, depth_mode, ids, starts, first_row, first, last, width, height, out_colors, out_rest
):
    """Blend the tiles [first, last) of a band of tile rows that begins at first_row.

    out_colors [H, W, D + (0, 1, 2)], not divided by alpha and without background; out_rest [H, W]: transmittance left.
    """
    channels = colors.shape[1]
    constants = channels + (1 if depth_mode == 1 else 0)  # channels that do not vary over a Gaussian
    outputs = out_colors.shape[2]
    tiles_x = (width + TILE - 1) // TILE
    # A block's planes of eight: pixel x, pixel y, transmittance, then the channels.
    stride = (3 + max(outputs, _QUICK)) * LANES
    state = np.empty(_BLOCKS * stride, np.float32)
    numbers = np.zeros((_BATCH, _NUMBERS + max(outputs, _QUICK)), np.float32)
    sets, sources = np.empty(_BATCH, np.int64), np.empty(_BATCH, np.int64)
    row_tops = _row_tops()
    zero, stop, most, least = splat(_ZERO), splat(_STOP), splat(_MOST), splat(_LEAST)
    for tile in range(first, last):
        left, top = (tile % tiles_x) * TILE, (first_row + tile // tiles_x) * TILE
        columns, lines = min(TILE, width - left), min(TILE, height - top)
        going = _open_tile(state, stride, lines, columns)
        for begin in range(starts[tile], starts[tile + 1], _BATCH):
            if going == 0:
                break
            end = min(begin + _BATCH, starts[tile + 1])
            count = _fetch(
                records, colors, depth_mode == 1, ids, begin, end, left, top, going, row_tops, numbers, sets, sources
            )
            for j in range(count):
                mx, my, opacity = splat(numbers[j, 0]), splat(numbers[j, 1]), splat(numbers[j, 5])
                a, b, d = splat(numbers[j, 2]), splat(numbers[j, 3]), splat(numbers[j, 4])
                v0, v1, v2 = splat(numbers[j, 6]), splat(numbers[j, 7]), splat(numbers[j, 8])
                greatest = minimum(opacity, most)
                todo = sets[j] & going
                while todo != 0:
                    block = lowest_bit(todo)
                    todo &= todo - 1
                    at = block * stride
                    dx, dy = load(state, at) + mx, load(state, at + LANES) + my
                    exponent = minimum(opacity - dx * (a * dx + b * dy) - d * (dy * dy), greatest)
                    alpha = where(exponent >= least, power_of_two(exponent), zero)
                    before = load(state, at + 2 * LANES)
                    weight = before * alpha
                    after = before - weight
                    taken = after > stop
                    weight = where(taken, weight, zero)
                    after = where(taken, after, minus_magnitude(before))
                    store(state, at + 2 * LANES, after)
                    store(state, at + 3 * LANES, load(state, at + 3 * LANES) + weight * v0)
                    store(state, at + 4 * LANES, load(state, at + 4 * LANES) + weight * v1)
                    store(state, at + 5 * LANES, load(state, at + 5 * LANES) + weight * v2)
                    for channel in range(_QUICK, constants):
                        here = at + (3 + channel) * LANES
                        store(state, here, load(state, here) + weight * splat(numbers[j, _NUMBERS + channel]))
                    if depth_mode == 2:
                        here = at + (3 + channels) * LANES
                        _blend_plane(state, here, planes[ids[sources[j]]], dx, dy, weight, after)
                    if bits(after > zero) == 0:
                        going &= ~(np.int64(1) << block)
        for y in range(lines):
            for x in range(columns):
                at = (x // _WIDE * _ROWS + y // _HIGH) * stride + y % _HIGH * _WIDE + x % _WIDE
                out_rest[top + y, left + x] = abs(state[at + 2 * LANES])
                for channel in range(outputs):
                    out_colors[top + y, left + x, channel] = state[at + (3 + channel) * LANES]


@inlined
def _blend_plane(state, at, plane, dx, dy, weight, after):
    """Add a value that is affine over the image to state[at], and its median to the plane after that."""
    value = splat(plane[0]) + splat(plane[1]) * dx + splat(plane[2]) * dy
    value = minimum(maximum(value, splat(plane[3])), splat(plane[4]))
    store(state, at, load(state, at) + weight * value)
    zero, half = splat(_ZERO), splat(_HALF)
    crossed = (weight > zero) & (half >= after) & (after + weight > half)
    store(state, at + LANES, load(state, at + LANES) + where(crossed, value, zero))


@kernel
def blend_tiles_backward(
    records,
    colors,
    with_depth,
    ids,
    starts,
    first_row,
    first,
    last,
    width,
    height,
    rendered,
    rest,
    v_rendered,
    v_alphas,
    out,
):
    """Gradients of every (tile, Gaussian) pair of the tiles [first, last), written to out [pairs, GRADIENT + D].

    Walks front to back as the forward pass does. With q = colour . v_rendered, the gradient of alpha_i is
    T_i q_i - (sum of what lies behind) / (1 - alpha_i), and what lies behind is the total minus what has been passed.
    rendered, v_rendered [H, W, D (+ 1)]; rest, v_alphas [H, W].
    """
    outputs = rendered.shape[2]
    tiles_x = (width + TILE - 1) // TILE
    # A block's planes of eight: pixel x, pixel y, transmittance, what lies behind, then v_rendered channel by channel.
    stride = (4 + max(outputs, _QUICK)) * LANES
    state = np.empty(_BLOCKS * stride, np.float32)
    numbers = np.zeros((_BATCH, _NUMBERS + max(outputs, _QUICK)), np.float32)
    sets, sources = np.empty(_BATCH, np.int64), np.empty(_BATCH, np.int64)
    sums = np.zeros(LANES * (1 + max(outputs, _QUICK)), np.float32)  # of the channels beyond the quick ones
    row_tops = _row_tops()
    zero, one = splat(_ZERO), splat(_ONE)
    stop, most, least = splat(_STOP), splat(_MOST), splat(_LEAST)
    for tile in range(first, last):
        left, top = (tile % tiles_x) * TILE, (first_row + tile // tiles_x) * TILE
        columns, lines = min(TILE, width - left), min(TILE, height - top)
        going = _open_tile(state, stride, lines, columns)
        for y in range(lines):
            for x in range(columns):
                at = (x // _WIDE * _ROWS + y // _HIGH) * stride + y % _HIGH * _WIDE + x % _WIDE
                behind = -rest[top + y, left + x] * v_alphas[top + y, left + x]
                for channel in range(outputs):
                    v = v_rendered[top + y, left + x, channel]
                    state[at + (4 + channel) * LANES] = v
                    behind += v * rendered[top + y, left + x, channel]
                state[at + 3 * LANES] = behind
        for k in range(starts[tile], starts[tile + 1]):
            for i in range(out.shape[1]):
                out[k, i] = _ZERO
        for begin in range(starts[tile], starts[tile + 1], _BATCH):
            if going == 0:
                break
            end = min(begin + _BATCH, starts[tile + 1])
            count = _fetch(
                records, colors, with_depth, ids, begin, end, left, top, going, row_tops, numbers, sets, sources
            )
            for j in range(count):
                mx, my, opacity = splat(numbers[j, 0]), splat(numbers[j, 1]), splat(numbers[j, 5])
                a, b, d = splat(numbers[j, 2]), splat(numbers[j, 3]), splat(numbers[j, 4])
                v0, v1, v2 = splat(numbers[j, 6]), splat(numbers[j, 7]), splat(numbers[j, 8])
                greatest = minimum(opacity, most)
                # Sums over the pixels: s = d loss / d sigma times 1, dx, dy, dx dx, dx dy, dy dy; weight v_rendered.
                s1, sx, sy, sxx, sxy, syy = zero, zero, zero, zero, zero, zero
                c0, c1, c2 = zero, zero, zero
                for channel in range(_QUICK, outputs):
                    store(sums, channel * LANES, zero)
                todo = sets[j] & going
                while todo != 0:
                    block = lowest_bit(todo)
                    todo &= todo - 1
                    at = block * stride
                    dx, dy = load(state, at) + mx, load(state, at + LANES) + my
                    unheld = opacity - dx * (a * dx + b * dy) - d * (dy * dy)
                    exponent = minimum(unheld, greatest)
                    alpha = where(exponent >= least, power_of_two(exponent), zero)
                    before = load(state, at + 2 * LANES)
                    weight = before * alpha
                    after = before - weight
                    taken = after > stop
                    weight = where(taken, weight, zero)
                    after = where(taken, after, minus_magnitude(before))
                    store(state, at + 2 * LANES, after)
                    g0, g1 = load(state, at + 4 * LANES), load(state, at + 5 * LANES)
                    g2 = load(state, at + 6 * LANES)
                    q = g0 * v0 + g1 * v1 + g2 * v2
                    c0 = c0 + weight * g0
                    c1 = c1 + weight * g1
                    c2 = c2 + weight * g2
                    for channel in range(_QUICK, outputs):
                        g = load(state, at + (4 + channel) * LANES)
                        q = q + g * splat(numbers[j, _NUMBERS + channel])
                        store(sums, channel * LANES, load(sums, channel * LANES) + weight * g)
                    q = q * weight
                    behind = load(state, at + 3 * LANES) - q
                    store(state, at + 3 * LANES, behind)
                    # No step where nothing was taken, nor where alpha is held at its greatest value.
                    s = where(taken & (most >= unheld), alpha * behind / (one - alpha) - q, zero)
                    s1 = s1 + s
                    u, v = s * dx, s * dy
                    sx = sx + u
                    sy = sy + v
                    sxx = sxx + u * dx
                    sxy = sxy + u * dy
                    syy = syy + v * dy
                    if bits(after > zero) == 0:
                        going &= ~(np.int64(1) << block)
                store(sums, 0, totals(s1, sx, sy, sxx, sxy, syy, c0, c1))
                k = sources[j]
                for i in range(min(8, out.shape[1])):
                    out[k, i] = sums[i]
                if outputs > 2:
                    out[k, 8] = total(c2)
                for channel in range(_QUICK, outputs):
                    out[k, GRADIENT + channel] = total(load(sums, channel * LANES))


@kernel
def gather_pairs(ids, pairs, first, last, out):
    """out[Gaussian] += its pairs, for Gaussians [first, last), in order: one sum whatever the number of threads."""
    for k in range(ids.size):
        n = ids[k]
        if first <= n < last:
            for j in range(pairs.shape[1]):
                out[n, j] += pairs[k, j]
