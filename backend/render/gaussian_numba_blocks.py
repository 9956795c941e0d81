"""The blocks that a tile is made of, and which of them a Gaussian touches: helpers of the kernels that blend.

A tile of 16 x 16 pixels is made of 32 blocks of 4 x 2; a block's eight pixels are one vector. A set of blocks is a
whole number with a bit for each.
"""

from __future__ import annotations

import math

import numpy as np

from backend.render.gaussian_numba_bins import TILE
from backend.render.gaussian_numba_vectors import (
    LANES,
    bits,
    load,
    lowest_bit,
    maximum,
    minimum,
    prefetch,
    splat,
    square_root,
    where,
)
from backend.render.parallel import inlined

WIDE, HIGH = 4, 2  # pixels of a block
COLUMNS, ROWS = TILE // WIDE, TILE // HIGH  # blocks of a tile; the block in column c and row r has the bit 8 c + r
BLOCKS = COLUMNS * ROWS
BATCH = 16  # Gaussians fetched together, after a look which blocks still take light
NUMBERS = 6  # of a fetched Gaussian before its channels: minus mean, quadratic form and opacity as powers of two
LEAST = np.float32(-math.log2(255.0))  # logarithm of the least alpha that counts
_AHEAD = 8  # how many Gaussians earlier the cache is told of one
_LOG2_E = np.float32(1.4426950408889634)
_ONE = np.float32(1.0)
_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)


@inlined
def open_tile(state, stride, lines, columns):
    """Lay out the blocks: pixel centres x and y, transmittance 1 inside the picture (stopped outside), then zeros.

    Gives back the set of blocks that have a pixel of the picture.
    """
    going = np.int64(0)
    for block in range(BLOCKS):
        at = block * stride
        for lane in range(LANES):
            x, y = block // ROWS * WIDE + lane % WIDE, block % ROWS * HIGH + lane // WIDE
            inside = x < columns and y < lines
            state[at + lane] = np.float32(x) + _HALF
            state[at + LANES + lane] = np.float32(y) + _HALF
            state[at + 2 * LANES + lane] = _ONE if inside else -_ONE
            going |= np.int64(inside) << block
        for i in range(3 * LANES, stride):
            state[at + i] = _ZERO
    return going


@inlined
def still_going(state, stride, going):
    """Which of the blocks `going` have a pixel that still takes light."""
    left = going
    while going != 0:
        block = lowest_bit(going)
        going &= going - 1
        if bits(load(state, block * stride + 2 * LANES) > splat(_ZERO)) == 0:
            left &= ~(np.int64(1) << block)
    return left


@inlined
def _touched(mx, my, a, b, d, rx, ry, edge, edges):
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
    low = maximum(load(edges, 0) - splat(my + np.float32(0.02)), zero - reach)
    high = minimum(load(edges, LANES) - splat(my - np.float32(0.02)), reach)
    y = minimum(maximum(widest, low), high)
    t = y * steepness
    right = slope * y + half * square_root(maximum(one - t * t, zero)) + splat(mx + margin)
    y = minimum(maximum(zero - widest, low), high)
    t = y * steepness
    left = slope * y - half * square_root(maximum(one - t * t, zero)) + splat(mx - margin)
    right = where(high >= low, right, splat(np.float32(-1.0)))
    touched = np.int64(0)
    for column in range(COLUMNS):
        near, far = splat(np.float32(WIDE * column) + _HALF), splat(np.float32(WIDE * (column + 1)) - _HALF)
        touched |= bits((right >= near) & (far >= left)) << (ROWS * column)
    return touched


@inlined
def fetch(records, colors, with_depth, ids, begin, end, left, top, going, edges, numbers, sets, sources):
    """Bring those of the Gaussians ids[begin:end] together that touch blocks of the set `going`; how many they are.

    numbers [batch, 6 + channels], sets [batch] of blocks, sources [batch] into ids.
    """
    count = 0
    for k in range(begin, end):
        n, later = ids[k], np.int64(ids[min(k + _AHEAD, ids.size - 1)])
        prefetch(records, later)
        prefetch(colors, later)
        mx, my = records[n, 0] - np.float32(left), records[n, 1] - np.float32(top)
        a, b, d, edge = records[n, 2], records[n, 3], records[n, 4], records[n, 9]
        touched = going & _touched(mx, my, a, b, d, records[n, 7], records[n, 8], edge, edges)
        if touched == 0:
            continue
        sets[count] = touched
        sources[count] = k
        numbers[count, 0] = -mx
        numbers[count, 1] = -my
        numbers[count, 2] = (_HALF * _LOG2_E) * a
        numbers[count, 3] = _LOG2_E * b
        numbers[count, 4] = (_HALF * _LOG2_E) * d
        numbers[count, 5] = _LOG2_E * edge + LEAST
        for channel in range(colors.shape[1]):
            numbers[count, NUMBERS + channel] = colors[n, channel]
        if with_depth:
            numbers[count, NUMBERS + colors.shape[1]] = records[n, 6]
        count += 1
    return count


@inlined
def row_edges():
    """For each row of blocks the y of its first and of its last pixel centre."""
    tops = np.empty(2 * LANES, np.float32)
    for row in range(ROWS):
        tops[row] = np.float32(HIGH * row) + _HALF
        tops[LANES + row] = np.float32(HIGH * (row + 1)) - _HALF
    return tops
