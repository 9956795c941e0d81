"""Charts placed in the texture's square: all at one scale, a set number of texels apart, turned by quarters.

Bottom-left filling on a coarse grid of cells: the largest chart first, each at the lowest place where the cells that it
touches are free. The scale is the largest at which all of them find one, by bisection.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.render.parallel import inlined, kernel

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

CELLS = 512  # along the texture's side
COARSE = 256  # for the first steps of the search
ANGLES = 24  # tried in a quarter turn for the smallest box about a chart
FULLEST = 0.92  # no packing is tried that would fill more of the square than this


def pack(uvs: NDArray[np.float64], charts: NDArray[np.int64], count: int, size: int, padding: int) -> FloatArray | None:
    """[m, 3, 2]: uvs in [0, 1]; None where there are too many charts for the grid of cells.

    Args:
        uvs: [m, 3, 2] corners of faces, all charts at the scale that they are to have, wherever they lie.
        charts: [m] the chart of each face, below `count`.
        size: texels along the side; padding: texels that stay free between two charts.
    """
    order = np.argsort(charts, kind="stable")
    first = np.searchsorted(charts[order], np.arange(count + 1)).astype(np.int32)
    corners = _upright(uvs[order], charts[order], first)
    found = _search(corners, first, size, padding)
    if found is None:
        return None
    scale, turns, places = found
    result = np.empty_like(corners)
    for chart in range(count):
        rows = slice(first[chart], first[chart + 1])
        result[rows] = _turned(corners[rows] * scale, int(turns[chart])) + places[chart]
    back = np.empty_like(result)
    back[order] = result
    return np.clip(back / CELLS, 0.0, 1.0).astype(np.float32)


def _upright(uvs: NDArray[np.float64], charts: NDArray[np.int64], first: IntArray) -> NDArray[np.float64]:
    """Every chart turned so that the box about it is smallest, and moved to the origin."""
    best = np.full(len(first) - 1, np.inf)
    angles = np.zeros(len(first) - 1)
    starts = first[:-1]
    for angle in np.arange(ANGLES) * (0.5 * np.pi / ANGLES):
        x = uvs[..., 0] * np.cos(angle) - uvs[..., 1] * np.sin(angle)
        y = uvs[..., 0] * np.sin(angle) + uvs[..., 1] * np.cos(angle)
        area = np.ones(len(starts))
        for values in (x, y):
            area *= np.maximum.reduceat(values.max(axis=1), starts) - np.minimum.reduceat(values.min(axis=1), starts)
        better = area < 0.999 * best
        best[better], angles[better] = area[better], angle
    cosine, sine = np.cos(angles)[charts][:, None], np.sin(angles)[charts][:, None]
    turned = np.stack([uvs[..., 0] * cosine - uvs[..., 1] * sine, uvs[..., 0] * sine + uvs[..., 1] * cosine], axis=-1)
    low = np.minimum.reduceat(turned.min(axis=1), starts, axis=0)
    return turned - low[charts][:, None, :]


def _turned(corners: NDArray[np.float64], quarters: int) -> NDArray[np.float64]:
    """A chart that lies in the first cells, after some quarter turns of those cells."""
    x, y = corners[..., 0], corners[..., 1]
    width, height = np.floor(x.max()) + 1, np.floor(y.max()) + 1
    turns = ((x, y), (height - y, x), (width - x, height - y), (y, width - x))
    return np.stack(turns[quarters], axis=-1)


def _search(
    corners: NDArray[np.float64], first: IntArray, size: int, padding: int
) -> tuple[float, IntArray, NDArray[np.float64]] | None:
    """The scale to cells, and each chart's quarter turns and place in cells."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = 0.5 * float(np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum())
    longest = max(float(corners.max()), 1e-30)
    scale = CELLS * min((FULLEST / max(area, 1e-30)) ** 0.5, 0.99 / longest)
    # Downwards in coarse cells to about where it fits.
    while _attempt(corners, first, scale, COARSE, size, padding) is None:
        scale *= 0.95
        if scale * longest < 2.0:
            return None
    # Fine cells waste less about the charts: usually a little more fits.
    low, high, found = 0.0, np.inf, None
    while high > 1.008 * low:
        attempt = _attempt(corners, first, scale, CELLS, size, padding)
        if attempt is None:
            high = scale
            scale = 0.5 * (low + high) if found else 0.97 * high
        else:
            low, found = scale, attempt
            scale = min(1.03 * low, 0.5 * (low + high))
    assert found is not None
    return low, *found


def _attempt(
    corners: NDArray[np.float64], first: IntArray, scale: float, cells: int, size: int, padding: int
) -> tuple[IntArray, NDArray[np.float64]] | None:
    """Rotations and places (in units of CELLS) if all charts fit at this scale (in units of CELLS)."""
    unit = cells / CELLS
    scaled = (corners * (scale * unit)).astype(np.float32)
    extents = np.maximum.reduceat(scaled.max(axis=1), first[:-1], axis=0)
    sizes = np.floor(extents).astype(np.int32) + 1
    if sizes.max() > cells:
        return None
    areas = sizes[:, 0].astype(np.int64) * sizes[:, 1]
    offsets = np.concatenate([[0], np.cumsum(areas)]).astype(np.int64)
    masks = np.zeros(int(offsets[-1]), np.uint8)
    _draw(scaled, first, sizes, offsets, masks)
    order = np.argsort(-areas, kind="stable").astype(np.int32)
    gap = int(np.ceil(padding * cells / size))
    places = np.zeros((len(sizes), 3), np.int32)
    if not _fill(masks, offsets, sizes, order, cells, gap, places):
        return None
    return places[:, 2], places[:, :2].astype(np.float64) / unit


@kernel
def _draw(corners: FloatArray, first: IntArray, sizes: IntArray, offsets: NDArray, masks: NDArray) -> None:
    """Mark every cell that a triangle touches."""
    for chart in range(sizes.shape[0]):
        width, height, offset = sizes[chart, 0], sizes[chart, 1], offsets[chart]
        for face in range(first[chart], first[chart + 1]):
            low_y = min(corners[face, 0, 1], corners[face, 1, 1], corners[face, 2, 1])
            high_y = max(corners[face, 0, 1], corners[face, 1, 1], corners[face, 2, 1])
            for row in range(max(int(low_y), 0), min(int(high_y), height - 1) + 1):
                low_x, high_x = np.float32(1e30), np.float32(-1e30)
                for edge in range(3):
                    ax, ay = corners[face, edge, 0], corners[face, edge, 1]
                    bx, by = corners[face, (edge + 1) % 3, 0], corners[face, (edge + 1) % 3, 1]
                    if ay > by:
                        ax, ay, bx, by = bx, by, ax, ay
                    if by < row or ay > row + 1:
                        continue
                    # The edge's part within the row of cells.
                    slope = (bx - ax) / (by - ay) if by > ay else np.float32(0.0)
                    start = ax + (row - ay) * slope if ay < row else ax
                    end = ax + (row + 1 - ay) * slope if by > row + 1 else bx
                    low_x = min(low_x, start, end)
                    high_x = max(high_x, start, end)
                for column in range(max(int(low_x), 0), min(int(high_x), width - 1) + 1):
                    masks[offset + row * width + column] = 1


@inlined
def _cell(row, column, turn, width, height):
    """Where a chart of width x height cells, turned by quarters, keeps the cell that comes to (row, column)."""
    if turn == 0:
        return row * width + column
    if turn == 1:
        return (height - 1 - column) * width + row
    if turn == 2:
        return (height - 1 - row) * width + width - 1 - column
    return column * width + width - 1 - row


@kernel
def _fill(
    masks: NDArray, offsets: NDArray, sizes: IntArray, order: IntArray, cells: int, gap: int, places: IntArray
) -> bool:
    """Place the charts in order: column, row and quarter turns into places. False where one does not fit."""
    # blocked[y, x]: the first column from x on that is taken. It lets the search leap.
    blocked = np.full((cells, cells + 1), cells, np.int32)
    taken = np.zeros((cells, cells), np.uint8)
    runs = np.empty((cells * cells // 2 + cells, 2), np.int32)
    rows = np.empty(cells + 1, np.int32)
    for chart in order:
        width, height, offset = sizes[chart, 0], sizes[chart, 1], offsets[chart]
        best_top, best_x, best_y, best_turn = cells + 1, 0, 0, -1
        for turn in range(4):
            if turn > 0 and width * height < 9:
                break  # a crumb needs no turning
            wide, tall = (width, height) if turn % 2 == 0 else (height, width)
            if wide > cells or tall > cells:
                continue
            count = 0
            for row in range(tall):
                rows[row] = count
                inside = False
                for column in range(wide):
                    filled = masks[offset + _cell(row, column, turn, width, height)]
                    if filled and not inside:
                        runs[count, 0] = column
                        inside = True
                    elif inside and not filled:
                        runs[count, 1] = column - 1
                        count += 1
                        inside = False
                if inside:
                    runs[count, 1] = wide - 1
                    count += 1
            rows[tall] = count
            for y in range(min(cells - tall, best_top - tall - 1) + 1):
                x, row, passed = 0, 0, 0
                while x + wide <= cells and passed < tall:
                    free = True
                    for run in range(rows[row], rows[row + 1]):
                        hit = blocked[y + row, x + runs[run, 0]]
                        if hit <= x + runs[run, 1]:
                            x = hit + 1 - runs[run, 0]
                            free = False
                            break
                    if free:
                        passed += 1
                        row = row + 1 if row + 1 < tall else 0
                    else:
                        passed = 0
                if passed == tall:
                    best_top, best_x, best_y, best_turn = y + tall, x, y, turn
                    break
        if best_turn < 0:
            return False
        places[chart, 0], places[chart, 1], places[chart, 2] = best_x, best_y, best_turn
        wide, tall = (width, height) if best_turn % 2 == 0 else (height, width)
        for row in range(tall):
            for column in range(wide):
                filled = masks[offset + _cell(row, column, best_turn, width, height)]
                if not filled:
                    continue
                left, right = max(best_x + column - gap, 0), min(best_x + column + gap, cells - 1)
                for near in range(max(best_y + row - gap, 0), min(best_y + row + gap, cells - 1) + 1):
                    taken[near, left : right + 1] = 1
        for row in range(max(best_y - gap, 0), min(best_y + tall - 1 + gap, cells - 1) + 1):
            following = cells
            for column in range(cells - 1, -1, -1):
                if taken[row, column]:
                    following = column
                blocked[row, column] = following
    return True
