"""Numba kernels that put a view's projected Gaussians, sorted by depth, into the lists of the tiles they touch."""

from __future__ import annotations

import math

import numpy as np

from backend.render.parallel import inlined, kernel

TILE = 16  # pixels on a tile's side
EDGE = 0.02  # pixels added to an extent, so that rounding never loses a pixel just above the alpha threshold


@kernel
def sort_by_depth(boxes, keys):
    """Indices of the Gaussians that reach a tile, nearest first, equal depths in the order of their indices. int32 [M].

    keys: the bits of the depths as uint32 [N]; of positive floats these sort as the floats do. A radix sort, since
    numba's argsort is slow to compile and slower to run.
    """
    count = 0
    for n in range(boxes.shape[0]):
        if boxes[n, 1] > boxes[n, 0]:
            count += 1
    order = np.empty(count, np.int32)
    buffer = np.empty(count, np.int32)
    count = 0
    for n in range(boxes.shape[0]):
        if boxes[n, 1] > boxes[n, 0]:
            order[count] = n
            count += 1
    starts = np.empty((3, 2048), np.int64)
    starts[:] = 0
    for i in range(count):
        key = keys[order[i]]
        for digit in range(3):
            starts[digit, np.int64((key >> np.uint32(11 * digit)) & np.uint32(2047))] += 1
    for digit in range(3):
        shift = np.uint32(11 * digit)
        before = 0
        for bucket in range(2048):
            here = int(starts[digit, bucket])
            starts[digit, bucket] = before
            before += here
        for i in range(count):
            key = np.int64((keys[order[i]] >> shift) & np.uint32(2047))
            buffer[starts[digit, key]] = order[i]
            starts[digit, key] += 1
        order, buffer = buffer, order
    return order


@inlined
def _tile_range(low, high, size):
    """Tiles [first, last) of an axis of `size` pixels whose pixel centres lie in [low, high]."""
    # The first pixel whose centre is >= low, and the one after the last whose centre is <= high.
    first = max(0, math.ceil(max(low, 0.0) - 0.5))
    last = math.floor(min(high, np.float64(size)) + 0.5)
    return first // TILE, (min(last, size) + TILE - 1) // TILE if last > first else first // TILE


@inlined
def _wants_spans(box):
    """Whether a Gaussian's tiles are found row by row rather than by its box, which nearly fits where it is small."""
    rows, columns = np.int64(box[1]) - np.int64(box[0]), np.int64(box[3]) - np.int64(box[2])
    return rows > 1 and columns > 1 and rows * columns > 4


@kernel
def tile_spans(records, boxes, order, width, height):
    """The tiles of each Gaussian of `order`: of a small one those of its box, of others those its ellipse touches.

    placed int16 [M, 4]: the boxes in this order. spans int32 [S, 2]: for each Gaussian that is not small, one after the
    other, the tile columns [first, last) of each tile row of its box. counts int64 [tile rows, tile columns]: how many
    Gaussians are in each tile.
    """
    placed = np.empty((order.size, 4), np.int16)
    tiles_x, tiles_y = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    counts = np.zeros((tiles_y, tiles_x + 1), np.int64)
    total = 0
    for i in range(order.size):
        for j in range(4):
            placed[i, j] = boxes[order[i], j]
        box = placed[i]
        if _wants_spans(box):
            total += int(box[1]) - int(box[0])
            continue
        for row in range(box[0], box[1]):
            counts[row, box[2]] += 1
            counts[row, box[3]] -= 1
    spans = np.zeros((total, 2), np.int32)
    at = 0
    for i in range(order.size):
        n = order[i]
        box = placed[i]
        if not _wants_spans(box):
            continue
        mx, my = np.float64(records[n, 0]), np.float64(records[n, 1])
        a, b = np.float64(records[n, 2]), np.float64(records[n, 3])
        rx, ry = np.float64(records[n, 7]), np.float64(records[n, 8])
        # Where the ellipse is widest to the right: dy = -b rx / d, but d may have rounded to nothing; by the covariance
        # (cxy / cxx) rx, with cxy / cxx = -b / d. To the left it is the mirror image.
        d = max(np.float64(records[n, 4]), 1e-30)
        widest = min(ry, max(-ry, -b / d * rx))
        for row in range(box[0], box[1]):
            low = max(row * TILE + 0.5 - EDGE - my, -ry)
            high = min(min((row + 1) * TILE, height) - 0.5 + EDGE - my, ry)
            right = _half_chord(a, b, d, rx, ry, min(max(widest, low), high), records[n, 9])
            left = -_half_chord(a, b, d, rx, ry, -min(max(-widest, low), high), records[n, 9])
            first, last = _tile_range(mx + left - EDGE, mx + right + EDGE, width)
            if last > first:
                spans[at, 0] = first
                spans[at, 1] = last
                counts[row, first] += 1
                counts[row, last] -= 1
            at += 1
    for row in range(tiles_y):
        for column in range(1, tiles_x):
            counts[row, column] += counts[row, column - 1]
    return placed, spans, counts[:, :tiles_x].copy()


@inlined
def _half_chord(a, b, d, rx, ry, dy, edge):
    """The right end of the ellipse at height dy, from its centre: the larger root of sigma(dx, dy) = edge."""
    # 0.5 a dx^2 + b dy dx + 0.5 d dy^2 - edge = 0, whose discriminant is 2 a edge (1 - (dy / ry)^2).
    root = math.sqrt(max(0.0, 2.0 * a * edge * (1.0 - (dy / ry) ** 2)))
    return min(rx, max(-rx, (-b * dy + root) / max(a, 1e-30)))


@kernel
def fill_tiles(order, placed, spans, starts, tiles_x, band_row, first_row, last_row, ids):
    """Write the lists of the tiles in the tile rows [first_row, last_row), nearest Gaussian first.

    starts: int64 [tiles + 1], where the lists begin of the tiles of a band of tile rows that begins at band_row. ids:
    Gaussians' indices, int32 [pairs].
    """
    cursor = starts[(first_row - band_row) * tiles_x : (last_row - band_row) * tiles_x].copy()
    at = 0
    for i in range(order.size):
        box = placed[i]
        by_span = _wants_spans(box)
        for row in range(max(box[0], first_row), min(box[1], last_row)):
            first, last = np.int64(box[2]), np.int64(box[3])
            if by_span:
                first, last = spans[at + row - box[0], 0], spans[at + row - box[0], 1]
            for column in range(first, last):
                tile = (row - first_row) * tiles_x + column
                ids[cursor[tile]] = order[i]
                cursor[tile] += 1
        if by_span:
            at += int(box[1]) - int(box[0])
