"""Numba kernels that blend the Gaussians of a tile front to back, and the backward pass of that.

3D Gaussian Splatting (arXiv 2308.04079) section 6 and equation 3. Each Gaussian goes over the rows of the tile that it
touches, 16 pixels at a time without a branch, so that the compiler makes vector code of it.

A pixel that has stopped (its transmittance would fall to 1e-4) keeps its transmittance with a minus sign: the test
"transmittance after this Gaussian > 1e-4" then fails by itself from there on.

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
_PIXELS = TILE * TILE
_LOOK_UP = 16  # Gaussians between two looks whether every pixel of the tile has stopped


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
def _rows_in_tile(my, ry, top):
    """Rows [first, last) of the tile at `top` whose pixel centres are within ry of my."""
    low = min(max(my - ry - np.float32(top) - _HALF, np.float32(-1.0)), np.float32(TILE + 1))
    high = min(max(my + ry - np.float32(top) - _HALF, np.float32(-1.0)), np.float32(TILE + 1))
    return max(0, math.ceil(low - np.float32(0.02))), min(TILE, math.floor(high + np.float32(0.02)) + 1)


@kernel
def blend_tiles(
    records, colors, planes, depth_mode, ids, starts, first_row, first, last, width, height, out_colors, out_rest
):
    """Blend the tiles [first, last) of a band of tile rows that begins at first_row.

    out_colors [H, W, D + (0, 1, 2)], not divided by alpha and without background; out_rest [H, W]: transmittance left.
    """
    channels = colors.shape[1]
    outputs = out_colors.shape[2]
    tiles_x = (width + TILE - 1) // TILE
    state = np.empty((1 + outputs) * _PIXELS, np.float32)  # transmittance, then a plane for each channel
    weight = np.empty(TILE, np.float32)
    value = np.empty(outputs, np.float32)
    for tile in range(first, last):
        left, top = (tile % tiles_x) * TILE, (first_row + tile // tiles_x) * TILE
        state[:] = _ZERO
        columns, lines = min(TILE, width - left), min(TILE, height - top)
        for row in range(TILE):
            for column in range(TILE):
                state[row * TILE + column] = _ONE if row < lines and column < columns else -_ONE
        for k in range(starts[tile], starts[tile + 1]):
            if (k - starts[tile]) % _LOOK_UP == _LOOK_UP - 1:
                going = False
                for pixel in range(_PIXELS):
                    going |= state[pixel] > _ZERO
                if not going:
                    break
            n = ids[k]
            x0 = np.float32(left) + _HALF - records[n, 0]
            my = records[n, 1]
            a, b, d = _HALF * records[n, 2], records[n, 3], _HALF * records[n, 4]
            opacity = records[n, 5]
            for channel in range(channels):
                value[channel] = colors[n, channel]
            if depth_mode == 1:
                value[channels] = records[n, 6]
            low, high = _rows_in_tile(my, records[n, 8], top)
            for row in range(low, high):
                dy = np.float32(top + row) + _HALF - my
                b_dy, d_dy = b * dy, d * dy * dy
                base = row * TILE
                for i in range(TILE):
                    dx = x0 + np.float32(i)
                    sigma = dx * (a * dx + b_dy) + d_dy
                    alpha = min(_ALPHA_MOST, opacity * _exp_minus(sigma))
                    before = state[base + i]
                    after = before * (_ONE - alpha)
                    valid = (sigma >= _ZERO) & (alpha >= _ALPHA_LEAST)
                    taken = valid & (after > _STOP)
                    weight[i] = alpha * before if taken else _ZERO
                    state[base + i] = after if taken else (-abs(before) if valid else before)
                if depth_mode == 2:
                    at = planes[n, 0] + planes[n, 1] * x0 + planes[n, 2] * dy
                    for i in range(TILE):
                        depth = min(max(at + planes[n, 1] * np.float32(i), planes[n, 3]), planes[n, 4])
                        state[(1 + channels) * _PIXELS + base + i] += weight[i] * depth
                        after = abs(state[base + i])
                        crossed = (weight[i] > _ZERO) & (after <= _HALF) & (after + weight[i] > _HALF)
                        if crossed:
                            state[(2 + channels) * _PIXELS + base + i] = depth
                for channel in range(channels + (1 if depth_mode == 1 else 0)):
                    amount = value[channel]
                    at_channel = (1 + channel) * _PIXELS + base
                    for i in range(TILE):
                        state[at_channel + i] += weight[i] * amount
        for row in range(lines):
            for column in range(columns):
                pixel = row * TILE + column
                out_rest[top + row, left + column] = abs(state[pixel])
                for channel in range(outputs):
                    out_colors[top + row, left + column, channel] = state[(1 + channel) * _PIXELS + pixel]


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
    # Planes: 0 transmittance, 1 what has been passed, 2 the total, then v_rendered channel by channel.
    state = np.empty((3 + outputs) * _PIXELS, np.float32)
    weight = np.empty(TILE, np.float32)
    worth = np.empty(TILE, np.float32)
    value = np.zeros(outputs, np.float32)
    v_value = np.empty(outputs, np.float32)
    for tile in range(first, last):
        left, top = (tile % tiles_x) * TILE, (first_row + tile // tiles_x) * TILE
        columns, lines = min(TILE, width - left), min(TILE, height - top)
        state[:] = _ZERO
        for row in range(TILE):
            for column in range(TILE):
                pixel = row * TILE + column
                if row >= lines or column >= columns:
                    state[pixel] = -_ONE
                    continue
                state[pixel] = _ONE
                total = -rest[top + row, left + column] * v_alphas[top + row, left + column]
                for channel in range(outputs):
                    v = v_rendered[top + row, left + column, channel]
                    state[(3 + channel) * _PIXELS + pixel] = v
                    total += v * rendered[top + row, left + column, channel]
                state[2 * _PIXELS + pixel] = total
        for k in range(starts[tile], starts[tile + 1]):
            if (k - starts[tile]) % _LOOK_UP == _LOOK_UP - 1:
                going = False
                for pixel in range(_PIXELS):
                    going |= state[pixel] > _ZERO
                if not going:
                    break
            n = ids[k]
            x0 = np.float32(left) + _HALF - records[n, 0]
            my = records[n, 1]
            a, b, d = _HALF * records[n, 2], records[n, 3], _HALF * records[n, 4]
            opacity = records[n, 5]
            for channel in range(channels):
                value[channel] = colors[n, channel]
            if with_depth:
                value[channels] = records[n, 6]
            v_value[:] = _ZERO
            # Sums over pixels of s = d loss / d sigma times 1, dx, dy, dx dx, dx dy, dy dy.
            s1, sx, sy, sxx, sxy, syy = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
            low, high = _rows_in_tile(my, records[n, 8], top)
            for row in range(low, high):
                dy = np.float32(top + row) + _HALF - my
                b_dy, d_dy = b * dy, d * dy * dy
                base = row * TILE
                worth[:] = _ZERO
                for channel in range(outputs):
                    amount = value[channel]
                    at_channel = (3 + channel) * _PIXELS + base
                    for i in range(TILE):
                        worth[i] += state[at_channel + i] * amount
                row_s, row_x, row_xx = _ZERO, _ZERO, _ZERO
                for i in range(TILE):
                    dx = x0 + np.float32(i)
                    sigma = dx * (a * dx + b_dy) + d_dy
                    raw = opacity * _exp_minus(sigma)
                    alpha = min(_ALPHA_MOST, raw)
                    before = state[base + i]
                    after = before * (_ONE - alpha)
                    valid = (sigma >= _ZERO) & (alpha >= _ALPHA_LEAST)
                    taken = valid & (after > _STOP)
                    w = alpha * before if taken else _ZERO
                    passed = state[_PIXELS + base + i] + w * worth[i]
                    v_alpha = before * worth[i] - (state[2 * _PIXELS + base + i] - passed) / (_ONE - alpha)
                    s = -raw * v_alpha if taken & (raw <= _ALPHA_MOST) else _ZERO
                    state[base + i] = after if taken else (-abs(before) if valid else before)
                    state[_PIXELS + base + i] = passed
                    weight[i] = w
                    row_s += s
                    row_x += s * dx
                    row_xx += s * dx * dx
                s1 += row_s
                sx += row_x
                sxx += row_xx
                sy += row_s * dy
                sxy += row_x * dy
                syy += row_s * dy * dy
                for channel in range(outputs):
                    at_channel = (3 + channel) * _PIXELS + base
                    amount = _ZERO
                    for i in range(TILE):
                        amount += weight[i] * state[at_channel + i]
                    v_value[channel] += amount
            # d sigma / d mean = -(conic @ (dx, dy))
            out[k, 0] = -(records[n, 2] * sx + b * sy)
            out[k, 1] = -(b * sx + records[n, 4] * sy)
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
