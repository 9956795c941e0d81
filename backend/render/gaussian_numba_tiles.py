"""Numba kernels that blend the Gaussians of a tile front to back, and the backward pass of that.

3D Gaussian Splatting (arXiv 2308.04079) section 6, equation 3. Each Gaussian goes over just the blocks of the tile that
its ellipse touches and that still take light, so that what is hidden, or beside the ellipse, costs next to nothing.

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
from backend.render.gaussian_numba_blocks import (
    BATCH,
    BLOCKS,
    HIGH,
    LEAST,
    NUMBERS,
    ROWS,
    WIDE,
    fetch,
    open_tile,
    row_edges,
    still_going,
)
from backend.render.gaussian_numba_unproject import GRADIENT
from backend.render.gaussian_numba_vectors import (
    LANES,
    load,
    lowest_bit,
    maximum,
    minimum,
    minus_magnitude,
    power_of_two,
    splat,
    store,
    take,
    total,
    totals,
    where,
)
from backend.render.parallel import inlined, kernel

_MOST = np.float32(math.log2(0.999))  # logarithm of the greatest alpha
_STOP = np.float32(1e-4)
_ONE = np.float32(1.0)
_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)
_QUICK = 3  # channels whose sums are written out; further ones take a loop


@kernel
def blend_tiles(
    queue, records, colors, planes, depth_mode, ids, starts, first_row, width, height, out_colors, out_rest
):
    """Blend the tiles of a band of tile rows that begins at first_row, those that this thread takes from the queue.

    out_colors [H, W, D + (0, 1, 2)], not divided by alpha and without background; out_rest [H, W]: transmittance left.
    """
    channels = colors.shape[1]
    constants = channels + (1 if depth_mode == 1 else 0)  # channels that do not vary over a Gaussian
    outputs = out_colors.shape[2]
    tiles_x = (width + TILE - 1) // TILE
    # A block's planes of eight: pixel x, pixel y, transmittance, then the channels.
    stride = (3 + max(outputs, _QUICK)) * LANES
    state = np.empty(BLOCKS * stride, np.float32)
    numbers = np.zeros((BATCH, NUMBERS + max(outputs, _QUICK)), np.float32)
    sets, sources = np.empty(BATCH, np.int64), np.empty(BATCH, np.int64)
    edges = row_edges()
    zero, stop, most, least = splat(_ZERO), splat(_STOP), splat(_MOST), splat(LEAST)
    tile = take(queue)
    while tile < starts.size - 1:
        left, top = (tile % tiles_x) * TILE, (first_row + tile // tiles_x) * TILE
        columns, lines = min(TILE, width - left), min(TILE, height - top)
        going = open_tile(state, stride, lines, columns)
        for begin in range(starts[tile], starts[tile + 1], BATCH):
            if begin > starts[tile]:
                going = still_going(state, stride, going)
                if going == 0:
                    break
            end = min(begin + BATCH, starts[tile + 1])
            count = fetch(
                records, colors, depth_mode == 1, ids, begin, end, left, top, going, edges, numbers, sets, sources
            )
            for j in range(count):
                mx, my, opacity = splat(numbers[j, 0]), splat(numbers[j, 1]), splat(numbers[j, 5])
                a, b, d = splat(numbers[j, 2]), splat(numbers[j, 3]), splat(numbers[j, 4])
                v0, v1, v2 = splat(numbers[j, 6]), splat(numbers[j, 7]), splat(numbers[j, 8])
                greatest = minimum(opacity, most)
                todo = sets[j]
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
                        store(state, here, load(state, here) + weight * splat(numbers[j, NUMBERS + channel]))
                    if depth_mode == 2:
                        here = at + (3 + channels) * LANES
                        _blend_plane(state, here, planes[ids[sources[j]]], dx, dy, weight, after)
        for y in range(lines):
            for x in range(columns):
                at = (x // WIDE * ROWS + y // HIGH) * stride + y % HIGH * WIDE + x % WIDE
                out_rest[top + y, left + x] = abs(state[at + 2 * LANES])
                for channel in range(outputs):
                    out_colors[top + y, left + x, channel] = state[at + (3 + channel) * LANES]
        tile = take(queue)


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
    queue,
    records,
    colors,
    with_depth,
    ids,
    starts,
    first_row,
    width,
    height,
    rendered,
    rest,
    v_rendered,
    v_alphas,
    out,
):
    """Gradients of every (tile, Gaussian) pair of the tiles taken from the queue, to out [pairs, GRADIENT + D].

    Walks front to back as the forward pass does. With q = colour . v_rendered, the gradient of alpha_i is
    T_i q_i - (sum of what lies behind) / (1 - alpha_i), and what lies behind is the total minus what has been passed.
    rendered, v_rendered [H, W, D (+ 1)]; rest, v_alphas [H, W].
    """
    outputs = rendered.shape[2]
    tiles_x = (width + TILE - 1) // TILE
    # A block's planes of eight: pixel x, pixel y, transmittance, what lies behind, then v_rendered channel by channel.
    stride = (4 + max(outputs, _QUICK)) * LANES
    state = np.empty(BLOCKS * stride, np.float32)
    numbers = np.zeros((BATCH, NUMBERS + max(outputs, _QUICK)), np.float32)
    sets, sources = np.empty(BATCH, np.int64), np.empty(BATCH, np.int64)
    sums = np.zeros(LANES * (1 + max(outputs, _QUICK)), np.float32)  # of the channels beyond the quick ones
    edges = row_edges()
    zero, one = splat(_ZERO), splat(_ONE)
    stop, most, least = splat(_STOP), splat(_MOST), splat(LEAST)
    tile = take(queue)
    while tile < starts.size - 1:
        left, top = (tile % tiles_x) * TILE, (first_row + tile // tiles_x) * TILE
        columns, lines = min(TILE, width - left), min(TILE, height - top)
        going = open_tile(state, stride, lines, columns)
        for y in range(lines):
            for x in range(columns):
                at = (x // WIDE * ROWS + y // HIGH) * stride + y % HIGH * WIDE + x % WIDE
                behind = -rest[top + y, left + x] * v_alphas[top + y, left + x]
                for channel in range(outputs):
                    v = v_rendered[top + y, left + x, channel]
                    state[at + (4 + channel) * LANES] = v
                    behind += v * rendered[top + y, left + x, channel]
                state[at + 3 * LANES] = behind
        for k in range(starts[tile], starts[tile + 1]):
            for i in range(out.shape[1]):
                out[k, i] = _ZERO
        for begin in range(starts[tile], starts[tile + 1], BATCH):
            if begin > starts[tile]:
                going = still_going(state, stride, going)
                if going == 0:
                    break
            end = min(begin + BATCH, starts[tile + 1])
            count = fetch(records, colors, with_depth, ids, begin, end, left, top, going, edges, numbers, sets, sources)
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
                todo = sets[j]
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
                        q = q + g * splat(numbers[j, NUMBERS + channel])
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
                store(sums, 0, totals(s1, sx, sy, sxx, sxy, syy, c0, c1))
                k = sources[j]
                for i in range(min(8, out.shape[1])):
                    out[k, i] = sums[i]
                if outputs > 2:
                    out[k, 8] = total(c2)
                for channel in range(_QUICK, outputs):
                    out[k, GRADIENT + channel] = total(load(sums, channel * LANES))
        tile = take(queue)
