"""Numba kernels that put a view's projected Gaussians, sorted by depth, into the lists of the tiles they touch."""

from __future__ import annotations

import math

import numpy as np

from backend.render.parallel import inlined, kernel

TILE = 16  # pixels on a tile's side
_EDGE = 0.02  # pixels added to an extent, so that rounding never loses a pixel just above the alpha threshold


@kernel
def sort_by_depth(records, keys):
    """Indices of the visible Gaussians, nearest first, equal depths in the order of their indices. int32 [M].

    keys: the bits of the depths as uint32 [N]; of positive floats these sort as the floats do. A radix sort, since
    numba's argsort is slow to compile and slower to run.
    """
    count = 0
    for n in range(records.shape[0]):
        if records[n, 7] > 0.0:
            count += 1
    order = np.empty(count, np.int32)
    buffer = np.empty(count, np.int32)
    count = 0
    for n in range(records.shape[0]):
        if records[n, 7] > 0.0:
            order[count] = n
            count += 1
    starts = np.empty(2048, np.int64)
    for digit in range(3):
        shift = np.uint32(11 * digit)
        starts[:] = 0
        for i in range(count):
            starts[np.int64((keys[order[i]] >> shift) & np.uint32(2047))] += 1
        total = 0
        for bucket in range(2048):
            here = int(starts[bucket])
            starts[bucket] = total
            total += here
        for i in range(count):
            key = np.int64((keys[order[i]] >> shift) & np.uint32(2047))
            buffer[starts[key]] = order[i]
            starts[key] += 1
        order, buffer = buffer, order
    return order


@inlined
def _tile_range(low, high, size):
    """Tiles [first, last) of an axis of `size` pixels whose pixel centres lie in [low, high]."""
    # The first pixel whose centre is >= low, and the one after the last whose centre is <= high.
    first = max(0, math.ceil(max(low, 0.0) - 0.5))
    last = math.floor(min(high, np.float64(size)) + 0.5)
    return first // TILE, (min(last, size) + TILE - 1) // TILE if last > first else first // TILE


@kernel
def tile_spans(records, order, width, height):
    """For each Gaussian of `order` the tiles it touches, row by row, exactly: its ellipse, not its box.

    rows int32 [M, 2]: tile rows [first, last). offsets int64 [M + 1]: where its spans begin. spans int32 [S, 2]: tile
    columns [first, last) of one tile row. counts int64 [tile rows, tile columns]: Gaussians in each tile.
    """
    tiles_x, tiles_y = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    rows = np.empty((order.size, 2), np.int32)
    offsets = np.empty(order.size + 1, np.int64)
    offsets[0] = 0
    for i in range(order.size):
        my, ry = np.float64(records[order[i], 1]), np.float64(records[order[i], 8]) + _EDGE
        first, last = _tile_range(my - ry, my + ry, height)
        rows[i, 0] = first
        rows[i, 1] = last
        offsets[i + 1] = offsets[i] + (last - first)
    spans = np.zeros((offsets[order.size], 2), np.int32)
    counts = np.zeros((tiles_y, tiles_x + 1), np.int64)
    for i in range(order.size):
        n = order[i]
        mx, my = np.float64(records[n, 0]), np.float64(records[n, 1])
        a, b = np.float64(records[n, 2]), np.float64(records[n, 3])
        rx, ry = np.float64(records[n, 7]), np.float64(records[n, 8])
        box_first, box_last = _tile_range(mx - rx - _EDGE, mx + rx + _EDGE, width)
        if rows[i, 1] - rows[i, 0] == 1 or box_last - box_first == 1:  # most: the box is exact already
            for row in range(rows[i, 0], rows[i, 1]):
                span = offsets[i] + row - rows[i, 0]
                spans[span, 0] = box_first
                spans[span, 1] = box_last
                counts[row, box_first] += 1
                counts[row, box_last] -= 1
            continue
        # Where the ellipse is widest to the right: dy = -b rx / d, but d may have rounded to nothing; by the covariance
        # (cxy / cxx) rx, with cxy / cxx = -b / d. To the left it is the mirror image.
        d = max(np.float64(records[n, 4]), 1e-30)
        widest = min(ry, max(-ry, -b / d * rx))
        for row in range(rows[i, 0], rows[i, 1]):
            low = max(row * TILE + 0.5 - _EDGE - my, -ry)
            high = min(min((row + 1) * TILE, height) - 0.5 + _EDGE - my, ry)
            right = _half_chord(a, b, d, rx, ry, min(max(widest, low), high), records[n, 9])
            left = -_half_chord(a, b, d, rx, ry, -min(max(-widest, low), high), records[n, 9])
            first, last = _tile_range(mx + left - _EDGE, mx + right + _EDGE, width)
            span = offsets[i] + row - rows[i, 0]
            if last > first:
                spans[span, 0] = first
                spans[span, 1] = last
                counts[row, first] += 1
                counts[row, last] -= 1
    for row in range(tiles_y):
        for column in range(1, tiles_x):
            counts[row, column] += counts[row, column - 1]
    return rows, offsets, spans, counts[:, :tiles_x].copy()


@inlined
def _half_chord(a, b, d, rx, ry, dy, edge):
    """The right end of the ellipse at height dy, from its centre: the larger root of sigma(dx, dy) = edge."""
    # 0.5 a dx^2 + b dy dx + 0.5 d dy^2 - edge = 0, whose discriminant is 2 a edge (1 - (dy / ry)^2).
    root = math.sqrt(max(0.0, 2.0 * a * edge * (1.0 - (dy / ry) ** 2)))
    return min(rx, max(-rx, (-b * dy + root) / max(a, 1e-30)))


@kernel
def fill_tiles(order, rows, offsets, spans, starts, first_row, last_row):
    """The lists of the tiles in the tile rows [first_row, last_row), nearest Gaussian first.

    starts: int64 [tiles + 1], where each of these tiles' lists begins. Gives back Gaussians' indices, int32 [pairs].
    """
    tiles_x = (starts.size - 1) // (last_row - first_row)
    cursor = starts.copy()
    ids = np.empty(starts[starts.size - 1], np.int32)
    for i in range(order.size):
        for row in range(max(rows[i, 0], first_row), min(rows[i, 1], last_row)):
            span = offsets[i] + row - rows[i, 0]
            for column in range(spans[span, 0], spans[span, 1]):
                tile = (row - first_row) * tiles_x + column
                ids[cursor[tile]] = order[i]
                cursor[tile] += 1
    return ids
