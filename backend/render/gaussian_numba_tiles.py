"""Numba kernels that blend the Gaussians of a tile front to back, and the backward pass of that.

3D Gaussian Splatting (arXiv 2308.04079) section 6, equation 3. A tile is made of blocks of 4 x 4 pixels. Each Gaussian
goes over the blocks that it touches, a block's 16 pixels at a time without a branch, so that the compiler makes vector
code of it. For that, too, the pixels' state is one array [planes, block rows, block columns, lanes] with the first
four channels at fixed planes: the compiler then knows by itself that they do not overlap. Fewer channels are padded
with zeros; more take a loop of their own.

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
from backend.render.gaussian_numba_project import GRADIENT
from backend.render.parallel import inlined, kernel

_ALPHA_LEAST = np.float32(1.0 / 255.0)
_ALPHA_MOST = np.float32(0.999)
_STOP = np.float32(1e-4)
_ONE = np.float32(1.0)
_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)
_WIDE, _HIGH = 4, 4  # pixels of a block
_COLUMNS, _ROWS, _LANES = TILE // _WIDE, TILE // _HIGH, _WIDE * _HIGH
_QUICK = 4  # channels at fixed planes
_BATCH = 16  # Gaussians fetched together, after a look whether every pixel of the tile has stopped


@inlined
def _exp_minus(sigma):
    """exp(-sigma) for sigma >= 0 in float32, error 2e-7; arithmetic only, so that it vectorises without a library."""
    x = max(np.float32(-1.4426950408889634) * sigma, np.float32(-120.0))
    whole = np.int32(x - _HALF)  # rounds to nearest, since the argument is negative
    f = x - np.float32(whole)
    # 2^f on [-1/2, 1/2]: the polynomial of the least relative error, found by Lawson's iteration.
    p = np.float32(0.001327647196)
    p = p * f + np.float32(0.009675541503)
    p = p * f + np.float32(0.05550713275)
    p = p * f + np.float32(0.2402211972)
    p = p * f + np.float32(0.6931469671)
    p = p * f + np.float32(1.000000072)
    return p * np.int32((whole + 127) << 23).view(np.float32)


@inlined
def _blocks(center, reach, start, size, count):
    """Blocks [first, last) of `count`, `size` pixels each, from pixel `start`, with pixel centres near enough."""
    limit = np.float32(size * count)
    low = math.ceil(min(max(center - reach - np.float32(start) - np.float32(0.52), _ZERO), limit))
    high = math.floor(min(max(center + reach - np.float32(start) - np.float32(0.48), -_ONE), limit - _ONE))
    return low // size, high // size + 1


@inlined
def _open_tile(state, going, lines, columns):
    """Clear the state: transmittance 1 inside the picture, stopped outside. All blocks are going."""
    state[:] = _ZERO
    going[:] = True
    for row in range(TILE):
        for column in range(TILE):
            inside = row < lines and column < columns
            lane = row % _HIGH * _WIDE + column % _WIDE
            state[0, row // _HIGH, column // _WIDE, lane] = _ONE if inside else -_ONE


@inlined
def _look(state, going):
    """Note which blocks have a pixel that still takes light; whether any has."""
    any_going = False
    for row in range(_ROWS):
        for column in range(_COLUMNS):
            most = -_ONE
            for lane in range(_LANES):
                most = max(most, state[0, row, column, lane])
            going[row, column] = most > _ZERO
            any_going = any_going or bool(most > _ZERO)
    return any_going


@inlined
def _fetch(records, colors, with_depth, ids, begin, end, left, top, numbers, boxes):
    """Bring the Gaussians ids[begin:end] together, with the blocks of the tile at (left, top) that each touches.

    numbers [batch, 6 + channels]: mean, conic halved on the diagonal, opacity, channels. boxes [batch, 4]: block rows
    and columns, first and last. The misses of the cache fall together here rather than one by one while blending.
    """
    for k in range(begin, end):
        n, at = ids[k], k - begin
        mx, my = records[n, 0], records[n, 1]
        numbers[at, 0] = mx
        numbers[at, 1] = my
        numbers[at, 2] = _HALF * records[n, 2]
        numbers[at, 3] = records[n, 3]
        numbers[at, 4] = _HALF * records[n, 4]
        numbers[at, 5] = records[n, 5]
        for channel in range(colors.shape[1]):
            numbers[at, 6 + channel] = colors[n, channel]
        if with_depth:
            numbers[at, 6 + colors.shape[1]] = records[n, 6]
        boxes[at, 0], boxes[at, 1] = _blocks(my, records[n, 8], top, _HIGH, _ROWS)
        boxes[at, 2], boxes[at, 3] = _blocks(mx, records[n, 7], left, _WIDE, _COLUMNS)


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
    # Planes: 0 transmittance, 1 the current Gaussian's weight, then the channels.
    state = np.empty((2 + max(outputs, _QUICK), _ROWS, _COLUMNS, _LANES), np.float32)
    going = np.empty((_ROWS, _COLUMNS), np.bool_)
    numbers = np.zeros((_BATCH, 6 + max(outputs, _QUICK)), np.float32)
    boxes = np.empty((_BATCH, 4), np.int64)
    for tile in range(first, last):
        left, top = (tile % tiles_x) * TILE, (first_row + tile // tiles_x) * TILE
        columns, lines = min(TILE, width - left), min(TILE, height - top)
        _open_tile(state, going, lines, columns)
        for k in range(starts[tile], starts[tile + 1]):
            if (k - starts[tile]) % _BATCH == 0:
                if k > starts[tile] and not _look(state, going):
                    break
                end = min(k + _BATCH, starts[tile + 1])
                _fetch(records, colors, depth_mode == 1, ids, k, end, left, top, numbers, boxes)
            n, at = ids[k], (k - starts[tile]) % _BATCH
            mx, my, a, b, d = numbers[at, 0], numbers[at, 1], numbers[at, 2], numbers[at, 3], numbers[at, 4]
            opacity, v0, v1, v2, v3 = numbers[at, 5], numbers[at, 6], numbers[at, 7], numbers[at, 8], numbers[at, 9]
            low, high, near, far = boxes[at, 0], boxes[at, 1], boxes[at, 2], boxes[at, 3]
            for row in range(low, high):
                y0 = np.float32(top + row * _HIGH) + _HALF - my
                for column in range(near, far):
                    if not going[row, column]:
                        continue
                    x0 = np.float32(left + column * _WIDE) + _HALF - mx
                    for lane in range(_LANES):
                        dx, dy = x0 + np.float32(lane % _WIDE), y0 + np.float32(lane // _WIDE)
                        sigma = dx * (a * dx + b * dy) + d * dy * dy
                        alpha = min(_ALPHA_MOST, opacity * _exp_minus(sigma))
                        alpha = alpha if alpha >= _ALPHA_LEAST else _ZERO
                        alpha = alpha if sigma >= _ZERO else _ZERO
                        before = state[0, row, column, lane]
                        after = before * (_ONE - alpha)
                        taken = after > _STOP
                        weight = before * alpha if taken else _ZERO
                        state[0, row, column, lane] = after if taken else -abs(before)
                        state[1, row, column, lane] = weight
                        state[2, row, column, lane] += weight * v0
                        state[3, row, column, lane] += weight * v1
                        state[4, row, column, lane] += weight * v2
                        state[5, row, column, lane] += weight * v3
                    for channel in range(_QUICK, constants):
                        for lane in range(_LANES):
                            state[2 + channel, row, column, lane] += (
                                state[1, row, column, lane] * numbers[at, 6 + channel]
                            )
                    if depth_mode == 2:
                        slope = planes[n, 1]
                        base = planes[n, 0] + slope * x0 + planes[n, 2] * y0
                        for lane in range(_LANES):
                            depth = base + slope * np.float32(lane % _WIDE) + planes[n, 2] * np.float32(lane // _WIDE)
                            depth = min(max(depth, planes[n, 3]), planes[n, 4])
                            weight = state[1, row, column, lane]
                            after = abs(state[0, row, column, lane])
                            crossed = (weight > _ZERO) & (after <= _HALF) & (after + weight > _HALF)
                            state[2 + channels, row, column, lane] += weight * depth
                            state[3 + channels, row, column, lane] += depth if crossed else _ZERO
        for y in range(lines):
            for x in range(columns):
                row, column, lane = y // _HIGH, x // _WIDE, y % _HIGH * _WIDE + x % _WIDE
                out_rest[top + y, left + x] = abs(state[0, row, column, lane])
                for channel in range(outputs):
                    out_colors[top + y, left + x, channel] = state[2 + channel, row, column, lane]


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
    channels = colors.shape[1]
    outputs = rendered.shape[2]
    tiles_x = (width + TILE - 1) // TILE
    # Planes: 0 transmittance, 1 the current Gaussian's weight, 2 what has been passed, 3 the total, 4 q of the channels
    # beyond the quick ones, then v_rendered channel by channel.
    state = np.empty((5 + max(outputs, _QUICK), _ROWS, _COLUMNS, _LANES), np.float32)
    going = np.empty((_ROWS, _COLUMNS), np.bool_)
    numbers = np.zeros((_BATCH, 6 + max(outputs, _QUICK)), np.float32)
    boxes = np.empty((_BATCH, 4), np.int64)
    v_value = np.zeros(max(outputs, _QUICK), np.float32)
    for tile in range(first, last):
        left, top = (tile % tiles_x) * TILE, (first_row + tile // tiles_x) * TILE
        columns, lines = min(TILE, width - left), min(TILE, height - top)
        _open_tile(state, going, lines, columns)
        for y in range(lines):
            for x in range(columns):
                row, column, lane = y // _HIGH, x // _WIDE, y % _HIGH * _WIDE + x % _WIDE
                total = -rest[top + y, left + x] * v_alphas[top + y, left + x]
                for channel in range(outputs):
                    v = v_rendered[top + y, left + x, channel]
                    state[5 + channel, row, column, lane] = v
                    total += v * rendered[top + y, left + x, channel]
                state[3, row, column, lane] = total
        for k in range(starts[tile], starts[tile + 1]):
            if (k - starts[tile]) % _BATCH == 0:
                if k > starts[tile] and not _look(state, going):
                    break
                end = min(k + _BATCH, starts[tile + 1])
                _fetch(records, colors, with_depth, ids, k, end, left, top, numbers, boxes)
            at = (k - starts[tile]) % _BATCH
            mx, my, a, b, d = numbers[at, 0], numbers[at, 1], numbers[at, 2], numbers[at, 3], numbers[at, 4]
            opacity, v0, v1, v2, v3 = numbers[at, 5], numbers[at, 6], numbers[at, 7], numbers[at, 8], numbers[at, 9]
            low, high, near, far = boxes[at, 0], boxes[at, 1], boxes[at, 2], boxes[at, 3]
            v_value[:] = _ZERO
            # Sums over the pixels of s = d loss / d sigma times 1, dx, dy, dx dx, dx dy, dy dy.
            s1, sx, sy, sxx, sxy, syy = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
            c0, c1, c2, c3 = _ZERO, _ZERO, _ZERO, _ZERO
            for row in range(low, high):
                y0 = np.float32(top + row * _HIGH) + _HALF - my
                for column in range(near, far):
                    if not going[row, column]:
                        continue
                    x0 = np.float32(left + column * _WIDE) + _HALF - mx
                    if outputs > _QUICK:
                        for lane in range(_LANES):
                            state[4, row, column, lane] = _ZERO
                        for channel in range(_QUICK, outputs):
                            for lane in range(_LANES):
                                state[4, row, column, lane] += (
                                    state[5 + channel, row, column, lane] * numbers[at, 6 + channel]
                                )
                    for lane in range(_LANES):
                        dx, dy = x0 + np.float32(lane % _WIDE), y0 + np.float32(lane // _WIDE)
                        sigma = dx * (a * dx + b * dy) + d * dy * dy
                        raw = opacity * _exp_minus(sigma)
                        alpha = min(_ALPHA_MOST, raw)
                        alpha = alpha if alpha >= _ALPHA_LEAST else _ZERO
                        alpha = alpha if sigma >= _ZERO else _ZERO
                        before = state[0, row, column, lane]
                        after = before * (_ONE - alpha)
                        taken = after > _STOP
                        weight = before * alpha if taken else _ZERO
                        g0, g1 = state[5, row, column, lane], state[6, row, column, lane]
                        g2, g3 = state[7, row, column, lane], state[8, row, column, lane]
                        q = g0 * v0 + g1 * v1 + g2 * v2 + g3 * v3 + state[4, row, column, lane]
                        passed = state[2, row, column, lane] + weight * q
                        v_alpha = before * q - (state[3, row, column, lane] - passed) / (_ONE - alpha)
                        # No step where nothing was taken, nor where alpha is held at its greatest value.
                        s = -alpha * v_alpha if taken else _ZERO
                        s = s if raw <= _ALPHA_MOST else _ZERO
                        state[0, row, column, lane] = after if taken else -abs(before)
                        state[1, row, column, lane] = weight
                        state[2, row, column, lane] = passed
                        s1 += s
                        sx += s * dx
                        sy += s * dy
                        sxx += s * dx * dx
                        sxy += s * dx * dy
                        syy += s * dy * dy
                        c0 += weight * g0
                        c1 += weight * g1
                        c2 += weight * g2
                        c3 += weight * g3
                    for channel in range(_QUICK, outputs):
                        amount = _ZERO
                        for lane in range(_LANES):
                            amount += state[1, row, column, lane] * state[5 + channel, row, column, lane]
                        v_value[channel] += amount
            v_value[0] = c0
            v_value[1] = c1
            v_value[2] = c2
            v_value[3] = c3
            # d sigma / d mean = -(conic @ (dx, dy))
            out[k, 0] = -(a + a) * sx - b * sy
            out[k, 1] = -b * sx - (d + d) * sy
            out[k, 2] = _HALF * sxx
            out[k, 3] = sxy
            out[k, 4] = _HALF * syy
            out[k, 5] = -s1 / opacity
            if with_depth:
                out[k, 6] = v_value[channels]
            for channel in range(channels):
                out[k, GRADIENT + channel] = v_value[channel]


@kernel
def gather_pairs(ids, pairs, out):
    """out[Gaussian] += its pairs, one after the other: the same sum whatever the number of threads."""
    for k in range(ids.size):
        n = ids[k]
        for j in range(pairs.shape[1]):
            out[n, j] += pairs[k, j]
