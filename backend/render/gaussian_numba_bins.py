"""Numba kernels that put a view's projected Gaussians, sorted by depth, into the lists of the tiles they touch.

Threads share the work by depth: each sorts a slice of it and writes that slice's part of every tile's list. The lists
are the same in however many slices they are made.
"""

from __future__ import annotations

import math

import numpy as np

from backend.render.gaussian_numba_vectors import prefetch
from backend.render.parallel import inlined, kernel

TILE = 16  # pixels on a tile's side
EDGE = 0.02  # pixels added to an extent, so that rounding never loses a pixel just above the alpha threshold
_AHEAD = 16  # how many Gaussians earlier the cache is told of one
_DIGIT = 12  # bits of a digit of the radix sort


@inlined
def list_drawn(records, boxes, first, last, bounds, listed, found):
    """List those of the Gaussians [first, last) that reach a tile, slice of depth by slice, in listed[first:].

    bounds: the depths' bits, uint32 [slices - 1] rising, at which a slice ends and the next begins. listed uint64 [N]:
    the depth's bits (of positive floats these sort as the floats do), then the index. found int32 [slices]: how many.
    """
    depths = records.view(np.uint32)
    found[:] = 0
    if bounds.size == 0:
        for n in range(first, last):
            if boxes[n, 1] > boxes[n, 0]:
                listed[first + found[0]] = np.uint64(depths[n, 6]) << np.uint64(32) | np.uint64(n)
                found[0] += 1
        return
    slices = np.empty(last - first, np.int16)
    for n in range(first, last):
        slices[n - first] = -1
        if boxes[n, 1] > boxes[n, 0]:
            slices[n - first] = np.searchsorted(bounds, depths[n, 6], side="right")
            found[slices[n - first]] += 1
    cursor = np.empty(found.size, np.int64)
    at = first
    for i in range(found.size):
        cursor[i] = at
        at += int(found[i])
    for n in range(first, last):
        i = slices[n - first]
        if i >= 0:
            listed[cursor[i]] = np.uint64(depths[n, 6]) << np.uint64(32) | np.uint64(n)
            cursor[i] += 1


@kernel
def sort_slice(listed, found, chunk, which):
    """Indices of the slice's Gaussians, nearest first, equal depths in the order of their indices. int32 [M].

    listed, found [chunks, slices]: what `list_drawn` made of chunks of `chunk` Gaussians. A radix sort, since numba's
    argsort is slow to compile and slower to run; of no more digits than the slice's depths differ in.
    """
    count = 0
    for c in range(found.shape[0]):
        count += int(found[c, which])
    values = np.empty(count, np.uint64)
    at, least, most = 0, np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0)
    for c in range(found.shape[0]):
        begin = c * chunk
        for i in range(which):
            begin += int(found[c, i])
        for i in range(begin, begin + found[c, which]):
            values[at] = listed[i]
            least, most = min(least, listed[i]), max(most, listed[i])
            at += 1
    order = np.empty(count, np.int32)
    if count == 0:
        return order
    low = least >> np.uint64(32)
    span, digits = (most >> np.uint64(32)) - low, 0
    while span > np.uint64(0):
        span >>= np.uint64(_DIGIT)
        digits += 1
    starts = np.zeros((digits, 1 << _DIGIT), np.int64)
    mask = np.uint64((1 << _DIGIT) - 1)
    for i in range(count):
        key = (values[i] >> np.uint64(32)) - low
        for digit in range(digits):
            starts[digit, np.int64((key >> np.uint64(_DIGIT * digit)) & mask)] += 1
    buffer = np.empty(count, np.uint64)
    for digit in range(digits):
        before = 0
        for bucket in range(1 << _DIGIT):
            here = int(starts[digit, bucket])
            starts[digit, bucket] = before
            before += here
        for i in range(count):
            key = np.int64((((values[i] >> np.uint64(32)) - low) >> np.uint64(_DIGIT * digit)) & mask)
            buffer[starts[digit, key]] = values[i]
            starts[digit, key] += 1
        values, buffer = buffer, values
    for i in range(count):
        order[i] = np.int32(values[i] & np.uint64(0xFFFFFFFF))
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
        prefetch(boxes, np.int64(order[min(i + _AHEAD, order.size - 1)]))
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
def fill_tiles(order, placed, spans, first_row, last_row, cursor, ids, ends, places):
    """Add a slice's Gaussians to the lists of the tiles in the tile rows [first_row, last_row), nearest first.

    cursor: int64 [tile rows, tile columns], where the slice's part of each tile's list begins; moved to where it ends.
    ids: Gaussians' indices, int32 [pairs]. places, int32 [the slice's pairs]: where in ids each Gaussian of `order` is,
    places[ends[i - 1] : ends[i]], for `gather_pairs`; both empty where that is not wanted.
    """
    at, count = 0, 0
    for i in range(order.size):
        box = placed[i]
        by_span = _wants_spans(box)
        for row in range(max(box[0], first_row), min(box[1], last_row)):
            first, last = np.int64(box[2]), np.int64(box[3])
            if by_span:
                first, last = spans[at + row - box[0], 0], spans[at + row - box[0], 1]
            for column in range(first, last):
                place = cursor[row - first_row, column]
                ids[place] = order[i]
                cursor[row - first_row, column] = place + 1
                if places.size > 0:
                    places[count] = np.int32(place)
                    count += 1
        if by_span:
            at += int(box[1]) - int(box[0])
        if ends.size > 0:
            ends[i] = count


@kernel
def gather_pairs(order, ends, places, pairs, out):
    """out[Gaussian] += its pairs, for a slice's Gaussians, tile by tile: one sum whatever the number of threads."""
    begin = 0
    for i in range(order.size):
        prefetch(out, np.int64(order[min(i + _AHEAD, order.size - 1)]))
        n, end = order[i], ends[i]
        for at in range(begin, end):
            prefetch(pairs, np.int64(places[min(at + _AHEAD, places.size - 1)]))
            k = places[at]
            for j in range(pairs.shape[1]):
                out[n, j] += pairs[k, j]
        begin = end
